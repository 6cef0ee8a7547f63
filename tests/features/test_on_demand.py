"""On-demand functions are their source text, wherever they were declared."""

from typing import Any

import numpy as np

import mlray as ml
from mlray.features.on_demand import OnDemand

checkout = ml.RequestSource("checkout", schema={"amount": float, "channel": str})


@ml.on_demand(checkout)
def length(channel):  # type: ignore[no-untyped-def]
    return np.array([0.0 if c is None else len(c) for c in channel])


def made(import_here: bool) -> OnDemand:
    import numpy as local  # a module of the enclosing function

    @ml.on_demand(checkout)
    def halved(amount: Any) -> Any:
        return local.divide(amount, 2)

    @ml.on_demand(checkout)
    def rooted(amount: Any) -> Any:
        return np.sqrt(amount)

    return halved if import_here else rooted


def test_a_function_with_a_comprehension_runs_from_its_text() -> None:
    assert length.compiled()(np.array(["web", None], dtype=object)).tolist() == [3.0, 0.0]


def test_a_function_declared_in_a_function_runs_from_its_text() -> None:
    assert made(import_here=True).compiled()(np.array([3.0])).tolist() == [1.5]
    assert made(import_here=False).compiled()(np.array([9.0])).tolist() == [3.0]
    assert made(import_here=True).imports == (("local", "numpy"),)


def test_the_same_text_has_the_same_digest() -> None:
    assert made(import_here=True).digest == made(import_here=True).digest
    assert made(import_here=True).digest != made(import_here=False).digest
