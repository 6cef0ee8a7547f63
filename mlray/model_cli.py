"""`mlray model`: models and versions created, found, described, tagged, copied, renamed and deleted.

Declared here without Ray, torch or Arrow; done in `model_commands`.
"""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from mlray.registry_cli import Config, Json, Model, Version, Why

What = Annotated[str, typer.Argument(help="A model (fraud) or a version (fraud/3, fraud@candidate).")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="key=value; may be given several times.")]
_FLIGHTS = Path("configs/flights.toml")

model = typer.Typer(help="Models and versions: make, find, describe, tag, copy, rename, delete.", no_args_is_help=True)


@model.command()
def create(
    name: Model,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    tag: Tags = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Create a model without versions."""
    _run("create", config, json, name=name, description=description, tags=tag or [])


@model.command(name="list")
def list_(
    pattern: Annotated[str | None, typer.Argument(help="Names: % is any characters, _ is one.")] = None,
    tag: Tags = None,
    limit: Annotated[int, typer.Option(help="So many of them.")] = 100,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """The models, and what is said about them."""
    _run("list", config, json, pattern=pattern, tags=tag or [], limit=limit)


@model.command()
def search(
    pattern: Annotated[str | None, typer.Argument(help="Names of models: % is any characters, _ is one.")] = None,
    stage: Annotated[str | None, typer.Option(help="None, Staging, Canary, Production or Archived.")] = None,
    alias: Annotated[str | None, typer.Option(help="An alias that points at them.")] = None,
    run: Annotated[str | None, typer.Option(help="The training run, by its id.")] = None,
    tag: Tags = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first.")] = False,
    limit: Annotated[int, typer.Option(help="So many of them.")] = 100,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """The versions for which all of it holds, of any model."""
    asked = {"stage": stage, "alias": alias, "run_id": run}
    _run("search", config, json, pattern=pattern, asked=asked, tags=tag or [], newest=newest, limit=limit)


@model.command()
def describe(
    what: What,
    text: Annotated[str, typer.Argument(help="What is said about it from now on.")],
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Say something about a model or a version."""
    _run("describe", config, json, what=what, text=text)


@model.command()
def tag(
    what: What,
    tags: Annotated[list[str], typer.Argument(help="key=value, once or more.")],
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Tag a model or a version. No rule reads a tag."""
    _run("tag", config, json, what=what, tags=tags)


@model.command()
def untag(
    what: What,
    keys: Annotated[list[str], typer.Argument(help="Keys of tags.")],
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Forget tags of a model or a version."""
    _run("untag", config, json, what=what, keys=keys)


@model.command()
def copy(
    version: Version,
    to: Annotated[str, typer.Argument(help="A model by its name; it is made if need be.")],
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Copy a version to another model, where it starts anew, without stage and approvals."""
    _run("copy", config, json, version=version, to=to)


@model.command()
def rename(
    name: Model,
    new_name: Annotated[str, typer.Argument(help="A name that no other model has or had.")],
    why: Why = "",
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Give a model another name; all else stays."""
    _run("rename", config, json, name=name, new_name=new_name, why=why)


@model.command()
def delete(what: What, why: Why = "", config: Config = _FLIGHTS, json: Json = False) -> None:
    """End a version, or a model with all its versions; their numbers are not given again."""
    _run("delete", config, json, what=what, why=why)


def _run(verb: str, config: Path, json: bool, **arguments: Any) -> None:
    commands = importlib.import_module("mlray.model_commands")  # SQLAlchemy takes a second: --help answers without
    raise typer.Exit(commands.run(verb, config, json, arguments))
