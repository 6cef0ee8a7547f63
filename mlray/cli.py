"""`mlray <verb>`: one command per verb. Declared here without Ray, torch or Arrow; done in `commands`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlray import catalog_cli, model_cli, online_cli, registry_cli
from mlray.errors import MlrayError

app = typer.Typer(
    help="A feature store, a training loop and a model registry that are one system, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Option("--config", "-c", envvar="MLRAY_CONFIG", help="The recipe, a TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
_QUIET = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_DATA_LOG_LEVEL": "ERROR", "RAY_USAGE_STATS_ENABLED": "0"}
"""Ray reads these when it is imported; a verb shows its own progress."""
_FLIGHTS = Path("configs/flights.toml")


@app.command()
def demo(config: Config = _FLIGHTS, json: Json = False) -> None:
    """From raw tables to a served prediction, every stage in turn."""
    _run("demo", config, json)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The project's name, such as fraud-model.")],
    folder: Annotated[Path | None, typer.Option(help="Where to; none: a new folder of that name.")] = None,
) -> None:
    """Write a project that runs as it is: features, model, tests, job, Dockerfile, CI."""
    project = importlib.import_module("mlray.project")
    where = folder or Path(name)
    for path in project.create(name, where):
        print(where / path)
    print(f"next: pip install pytest ruff && cd {where} && make test run")


@app.command()
def apply(config: Config = _FLIGHTS, json: Json = False) -> None:
    """Put the recipe's feature service in force, and show what changed."""
    _run("apply", config, json)


@app.command()
def ingest(
    source: Annotated[str | None, typer.Argument(help="Where the rows go; none: the recipe's own tables.")] = None,
    file: Annotated[Path | None, typer.Argument(help="Rows as .parquet, .csv or .jsonl.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key; none: the rows' content.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Add rows to a source: to Delta, and to every online view of it. The same rows again change nothing."""
    _run("ingest", config, json, source=source, file=file, key=key)


@app.command()
def layout(
    source: Annotated[str, typer.Argument(help="A source by its name.")],
    entity: Annotated[str | None, typer.Option(help="By whose key; none: every key that views read it by.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Keep a source's table in sorted buckets of a key, from which training sets are built fastest."""
    _run("layout", config, json, source=source, entity=entity)


@app.command()
def compact(
    source: Annotated[str, typer.Argument(help="A source by its name.")],
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Fold the many small files of a source's table, as ingest leaves them, into few; no row changes."""
    _run("compact", config, json, source=source)


@app.command()
def build(
    out: Annotated[str | None, typer.Option(help="Write the training set as a new Delta table.")] = None,
    explain: Annotated[bool, typer.Option(help="Show how each view is joined and why, and build nothing.")] = False,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Compute the recipe's training set, as of each row's instant."""
    _run("build", config, json, out=out, explain=explain)


@app.command()
def train(
    data: Annotated[str | None, typer.Option(help="A training set that `build --out` wrote; none: build it.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Build the training set and train on it; the run is kept for `register`."""
    _run("train", config, json, data=data)


@app.command()
def register(
    run: Annotated[str | None, typer.Option(help="A run by its name; none: the newest.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Register a finished run as the model's next version, under the recipe's alias."""
    _run("register", config, json, run=run)


@app.command()
def materialize(
    until: Annotated[
        str | None, typer.Option(help="An instant with its zone, 2026-01-31T00:00:00Z; none: now.")
    ] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Load the online store from the Delta tables."""
    _run("materialize", config, json, until=until)


@app.command()
def get(
    rows: Annotated[str, typer.Argument(help="One row or a list of rows as JSON: keys and request fields.")],
    at: Annotated[str | None, typer.Option(help="An instant with its zone; none: now.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Read feature vectors online."""
    _run("get", config, json, rows=rows, at=at)


@app.command()
def serve(
    model: Annotated[str | None, typer.Argument(help="flights@candidate, flights/3; none: the recipe's.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen; none: the recipe's.")] = None,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Answer predictions over HTTP until interrupted."""
    _run("serve", config, json, model=model, port=port)


@app.command()
def verify(
    service: Annotated[
        str | None, typer.Argument(help="A service in force, on rows drawn from its tables; none: the recipe's.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="How many rows; none: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Which keys and instants are drawn.")] = 0,
    log: Annotated[bool, typer.Option("--log", help="What served models were given, by their prediction log.")] = False,
    config: Config = _FLIGHTS,
    json: Json = False,
) -> None:
    """Check the law: offline as of t against online at t, per cell. Exit code 1 where a cell differs."""
    _run("verify", config, json, service=service, rows=rows, seed=seed, log=log)


def _run(verb: str, config: Path, json: bool, **arguments: Any) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Ray, torch and Arrow take seconds to import; --help and wrong usage answer without them.
    commands = importlib.import_module("mlray.commands")
    raise typer.Exit(commands.run(verb, config, json, arguments))


registry_cli.add_to(app)
app.add_typer(model_cli.model, name="model")
catalog_cli.add_to(app)
app.add_typer(online_cli.online, name="online")


def main() -> None:
    """The entry point: an expected error is one line and exit code 1, never a traceback."""
    try:
        app()
    except MlrayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if "MLRAY_DEBUG" in os.environ:
            raise
        print(f"error: {type(error).__name__}: {error} (MLRAY_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
