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

from mlray.gates.explainer import BACKGROUND_FILE, TOLERANCE, Explainer
from mlray.gates.result import Result
from mlray.gates.settings import Explanation
from mlray.gates.slices import sliced
from mlray.training.model import Model, load_model

EXPLANATION_FILE = "explanation.json"


def explain_model(model: Model, background: pa.Table, rows: pa.Table, config: Explanation) -> Result:
    """The result over the rows: the features of the model, and the columns of the slices."""
    found = Explainer(model, background.select(list(model.features))).explain(rows)
    limit = TOLERANCE[found.method]
    passed = found.error <= limit
    wrong = f"base and SHAP values miss the model's output by {found.error:.3g} of its deviation, allowed are {limit:g}"
    return Result(
        passed=passed,
        value=found.error,
        threshold=limit,
        problems=() if passed else (wrong,),
        details={
            "method": found.method,
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

    {"base": ..., "output": ..., "features": {name: what it adds}}, the largest first; lists where the model has several
    outputs. The explainer is kept per checkpoint.
    """
    explainer, schema = _kept(str(checkpoint))
    found = explainer.explain(pa.Table.from_pylist([dict(row)], schema=schema))
    values = {name: found.values[0, i].tolist() for i, name in enumerate(found.features)}
    one = found.outputs.shape[1] == 1
    return {
        "base": float(found.base[0]) if one else found.base.tolist(),
        "output": float(found.outputs[0, 0]) if one else found.outputs[0].tolist(),
        "features": {name: values[name][0] if one else values[name] for name in found.importance()},
    }


@lru_cache(maxsize=4)
def _kept(checkpoint: str) -> tuple[Explainer, pa.Schema]:
    explainer = Explainer.of(load_model(checkpoint), checkpoint)
    return explainer, feather.read_table(Path(checkpoint, BACKGROUND_FILE)).schema


def _by_slice(importance: Any, rows: pa.Table, config: Explanation) -> Any:
    for name in config.slices:
        for one, chosen in sliced(name, rows.column(name), config.bins.get(name)).each():
            if len(chosen):
                yield {"column": name, "slice": one, "rows": len(chosen), "importance": importance(chosen)}
