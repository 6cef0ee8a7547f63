"""What the model goes by: SHAP values of a sample of the test rows, added up over all of them and per slice. Kept with
the version as `explanation.json`; with `background.arrow` beside it a request is explained when it comes.

The gate `explanation` says that the values add up to the model's output: what is shown is the model, and not a story.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import feather

from mlray.errors import ExplanationFailed
from mlray.gates.explainer import BACKGROUND_FILE, Explainer
from mlray.gates.result import Result
from mlray.gates.settings import Explanation
from mlray.gates.slices import sliced
from mlray.training.model import Model, load_model

EXPLANATION_FILE = "explanation.json"


def explain_model(model: Model, background: pa.Table, rows: pa.Table, config: Explanation) -> Result:
    """The result over the rows: the features of the model, and the columns of the slices."""
    try:
        found = Explainer(model, background.select(list(model.features))).explain(rows)
    except ExplanationFailed as error:
        nothing = {"method": "none", "unit": "", "base": [], "rows": rows.num_rows, "importance": {}, "slices": []}
        return Result(passed=False, problems=(str(error),), details=nothing)
    passed = found.error <= found.tolerance
    wrong = f"base and SHAP values miss the model's output by {found.error:.3g} of its deviation, allowed are"
    return Result(
        passed=passed,
        value=found.error,
        threshold=found.tolerance,
        problems=() if passed else (f"{wrong} {found.tolerance:g}",),
        details={
            "method": found.method,
            "unit": found.unit,
            "base": found.base.tolist(),
            "rows": rows.num_rows,
            "importance": found.importance(),
            "slices": list(_by_slice(found.importance, rows, config)),
        },
    )


def write_explanation(checkpoint: Path, result: Result, background: pa.Table, features: Sequence[str]) -> None:
    """`explanation.json` and `background.arrow` of the checkpoint."""
    text = json.dumps(result.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    (checkpoint / EXPLANATION_FILE).write_text(text, encoding="utf-8")
    feather.write_feather(background.select(list(features)), str(checkpoint / BACKGROUND_FILE), compression="zstd")


def explain(checkpoint: str | Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """One request explained by the model of a checkpoint, or of a downloaded version. row: its feature vector, by name.

    {"base": ..., "output": ..., "features": {name: what it adds}}, the largest first; by class where the model has
    several. The explainer is kept per checkpoint. ExplanationFailed where they do not add up.
    """
    explainer, classes = _kept(str(checkpoint))
    [told] = explainer.explain(pa.Table.from_pylist([dict(row)], schema=explainer.background.schema)).each(classes)
    return told


@lru_cache(maxsize=4)
def _kept(checkpoint: str) -> tuple[Explainer, tuple[str, ...]]:
    model = load_model(checkpoint)
    return Explainer.of(model, checkpoint), model.task.classes


def _by_slice(importance: Any, rows: pa.Table, config: Explanation) -> Any:
    for name in config.slices:
        for one, chosen in sliced(name, rows.column(name), config.bins.get(name)).each():
            if len(chosen):
                yield {"column": name, "slice": one, "rows": len(chosen), "importance": importance(chosen)}
