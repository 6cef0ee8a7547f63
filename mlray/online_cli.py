"""The online store on the command line: `mlray online stats` and `mlray online gc`. Done in `online_commands`."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Option("--config", "-c", envvar="MLRAY_CONFIG", help="The recipe, a TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
_FLIGHTS = Path("configs/flights.toml")

online = typer.Typer(help="What the online store holds.", no_args_is_help=True)


@online.command()
def stats(config: Config = _FLIGHTS, json: Json = False) -> None:
    """Show what each view holds in each definition, by reading all of it."""
    _run("stats", config, json)


@online.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Drop what is of definitions no longer in force that no registered model version pins."""
    _run("gc", config, json, dry_run=dry_run)


def _run(verb: str, config: Path, json: bool, **arguments: Any) -> None:
    # Arrow and SQLAlchemy take a second to import; --help and wrong usage answer without them.
    commands = importlib.import_module("mlray.online_commands")
    raise typer.Exit(commands.run(verb, config, json, arguments))
