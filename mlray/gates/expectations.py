"""A team's own suite of Great Expectations, run over rows of the training set; one failed expectation, one problem.

Great Expectations knows pandas, SQL and Spark, and wants its rows in one place: it is given a sample of bounded size.
"""

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlray.errors import ConfigError
from mlray.gates.extra import imported

_SHOWN = 3


def load_suite(path: Path) -> Any:
    """A suite from the JSON that Great Expectations keeps it in; ConfigError where it is none."""
    module = _great_expectations()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return module.ExpectationSuite(name=kept["name"], expectations=kept["expectations"], meta=kept.get("meta"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no suite of Great Expectations: {error}") from error


def run_suite(suite: Any, rows: pa.Table) -> list[str]:
    """The failed expectations, a sentence each; one that could not be computed has failed."""
    module = _great_expectations()
    context = module.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("mlray").add_dataframe_asset("training set")
    whole = asset.add_batch_definition_whole_dataframe("rows")
    found = whole.get_batch(batch_parameters={"dataframe": rows.to_pandas()}).validate(suite)
    return [_sentence(one) for one in found.results if not one.success]


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # it reports home unless it is told not to, before its import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modules of clouds, and of Python, that it has not left yet
        return imported("great_expectations", extra="great-expectations", who="[gates.data_validation] suite")


def _sentence(one: Any) -> str:
    asked = {key: value for key, value in one.expectation_config.kwargs.items() if key != "batch_id"}
    column = asked.pop("column", "the table")
    return f"{column}: {one.expectation_config.type}({_shown(asked)}) {'; '.join(_why(one))}"


def _why(one: Any) -> Iterator[str]:
    result = one.result or {}
    if "unexpected_count" in result:
        examples = ", ".join(map(str, result.get("partial_unexpected_list", [])[:_SHOWN]))
        yield f"fails in {result['unexpected_count']:,} rows, such as {examples}"
    elif "observed_value" in result:
        yield f"found {result['observed_value']}"
    else:
        told = {info["exception_message"] for info in _exceptions(one.exception_info)}
        yield f"could not be computed: {'; '.join(sorted(told)) or 'no reason is given'}"


def _exceptions(info: Any) -> list[dict[str, Any]]:
    if not isinstance(info, dict):
        return []
    found = [info] if "exception_message" in info else [one for one in info.values() if isinstance(one, dict)]
    return [one for one in found if one.get("exception_message")]


def _shown(asked: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in asked.items())
