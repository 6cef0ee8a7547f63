"""The registry on the command line: versions, lineage, approve, promote, rollback, audit, policy, and `mlray user`.

Declared here without Ray, torch or Arrow; done in `registry_commands`.
"""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Option("--config", "-c", envvar="MLRAY_CONFIG", help="The recipe, a TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Why = Annotated[str, typer.Option(help="The reason, kept in the audit.")]
Stage = Annotated[str, typer.Option(help="Staging, Canary, Production or Archived.")]
Model = Annotated[str, typer.Argument(help="A model by its name.")]
Version = Annotated[str, typer.Argument(help="fraud/3, fraud@candidate or fraud/Canary.")]
Name = Annotated[str, typer.Argument(help="A user by name.")]
Role = Annotated[str, typer.Argument(help="Such as ml_engineer, risk_officer, operator or admin.")]
_FLIGHTS = Path("configs/flights.toml")

registry = typer.Typer(help="The registry itself.", no_args_is_help=True)
user = typer.Typer(help="Who may do what in the registry. The first user is its admin.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds the commands of the registry to the command line."""
    for command in (versions, lineage, approve, promote, rollback, audit, policy):
        app.command()(command)
    app.add_typer(registry, name="registry")
    app.add_typer(user, name="user")


def versions(model: Model, config: Config = _FLIGHTS, json: Json = False) -> None:
    """The versions of a model: where each is, and who has approved it."""
    _run("versions", config, json, model=model)


def lineage(version: Version, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Where a version comes from, down to the tables' versions, and what gates and people say of it."""
    _run("lineage", config, json, version=version)


def approve(
    version: Version,
    role: Annotated[str, typer.Option(help="The role in which you approve.")],
    stage: Stage = "Production",
    revoke: Annotated[bool, typer.Option("--revoke", help="Take your approval back.")] = False,
    why: Why = "",
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Approve a version for a stage, as the user whose token is in MLRAY_TOKEN."""
    _run("approve", config, json, version=version, role=role, stage=stage, revoke=revoke, why=why)


def promote(
    version: Version, stage: Stage = "Production", why: Why = "", config: Config = _FLIGHTS, json: Json = False
) -> None:
    """Move a version to a stage; what it replaces there is archived."""
    _run("promote", config, json, version=version, stage=stage, why=why)


def rollback(
    what: Annotated[str, typer.Argument(help="A model, or the version that is to leave Production, as fraud/3.")],
    why: Why = "",
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Put the last approved Production of a model back, without new approvals."""
    _run("rollback", config, json, what=what, why=why)


def audit(
    model: Annotated[str | None, typer.Argument(help="A model by its name; none: everything.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify the chain; exit code 1 where it is broken.")] = False,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Who changed what, when and why."""
    _run("audit", config, json, model=model, check=check)


def policy(
    file: Annotated[Path | None, typer.Argument(help="A policy to put in force; none: show the present one.")] = None,
    why: Why = "",
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """What each stage asks for."""
    _run("policy", config, json, file=file, why=why)


@registry.command()
def janitor(
    grace: Annotated[str, typer.Option(help="How old what goes must be: 7d, 12h, 30m, 0s.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    why: Why = "",
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Remove the bytes that no version names: what was uploaded and never registered, or cut off. Takes an admin."""
    _run("janitor", config, json, grace=grace, dry_run=dry_run, why=why)


@registry.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; none: as configured, else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; none: as configured, else 8600; 0: a free one.")] = None,
    config: Config = _FLIGHTS,
) -> None:
    """Serve the registry over HTTP, to MLflow's clients too, until Ctrl-C."""
    raise typer.Exit(importlib.import_module("mlray.registry_commands").serve(config, host, port))


@user.command()
def add(
    name: Name,
    role: Annotated[list[str] | None, typer.Option(help="A role; may be given several times.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Add a user, and print the token, once."""
    _run("user_add", config, json, name=name, roles=role or [])


@user.command()
def token(name: Name, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Print a new token for a user; the earlier one ends."""
    _run("user_token", config, json, name=name)


@user.command()
def grant(name: Name, role: Role, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Give a user a role."""
    _run("user_grant", config, json, name=name, role=role)


@user.command()
def revoke(name: Name, role: Role, config: Config = _FLIGHTS, json: Json = False) -> None:
    """Take a role from a user, and with it what was approved in it and not yet used."""
    _run("user_revoke", config, json, name=name, role=role)


@user.command()
def disable(name: Name, config: Config = _FLIGHTS, json: Json = False) -> None:
    """End a user for good."""
    _run("user_disable", config, json, name=name)


@user.command(name="list")
def list_(config: Config = _FLIGHTS, json: Json = False) -> None:
    """Everybody who was ever added."""
    _run("user_list", config, json)


def _run(verb: str, config: Path, json: bool, **arguments: Any) -> None:
    # Arrow and SQLAlchemy take a second to import; --help and wrong usage answer without them.
    commands = importlib.import_module("mlray.registry_commands")
    raise typer.Exit(commands.run(verb, config, json, arguments))
