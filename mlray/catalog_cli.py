"""The catalog on the command line: find, describe, impact, drop, card, reproduce. Done in `catalog_commands`."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Option("--config", "-c", envvar="MLRAY_CONFIG", help="The recipe, a TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Kind = Annotated[str | None, typer.Option(help="entity, source, view, service or model, where several have the name.")]
Name = Annotated[str, typer.Argument(help="A name; of a view also owner/view.")]
Version = Annotated[str, typer.Argument(help="fraud/3, fraud@candidate or fraud/Canary.")]
_FLIGHTS = Path("configs/flights.toml")


def add_to(app: typer.Typer) -> None:
    """Adds the commands of the catalog to the command line."""
    for command in (find, describe, impact, drop, card, reproduce):
        app.command()(command)


def find(
    text: Annotated[str, typer.Argument(help="A part of a name; nothing: everything.")] = "",
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Find entities, sources, views, features, services and models by a part of their name."""
    _run("find", config, json, text=text)


def describe(name: Name, kind: Kind = None, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Show a source, an entity, a view, a service or a model in full, and who uses it."""
    _run("describe", config, json, name=name, kind=kind)


def impact(name: Name, kind: Kind = None, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Show the views, services and model versions that a source, an entity, a view or a service feeds."""
    _run("impact", config, json, name=name, kind=kind)


def drop(name: Name, kind: Kind = None, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Take a view, a source or a service out of force, unless a model in Production or Canary reads it."""
    _run("drop", config, json, name=name, kind=kind)


def card(
    version: Version,
    html: Annotated[bool, typer.Option("--html", help="As a page instead of Markdown.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file to write; none: print it.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Print a version's model card: purpose, data, features, metrics, gates, approvals and limits."""
    _run("card", config, json, version=version, html=html, out=out)


def reproduce(
    version: Version,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train on it, too, and compare the weights.")] = False,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Build a version's training set anew, from what it recorded. Exit code 1 where it is another one, or cannot be."""
    _run("reproduce", config, json, version=version, retrain=retrain)


def _run(verb: str, config: Path, json: bool, **arguments: Any) -> None:
    # Arrow and SQLAlchemy take a second to import; --help and wrong usage answer without them.
    commands = importlib.import_module("mlray.catalog_commands")
    raise typer.Exit(commands.run(verb, config, json, arguments))
