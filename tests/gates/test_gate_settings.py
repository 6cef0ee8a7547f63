"""The tables [gates.*] of a recipe: what is on by itself, and what is refused before anything is trained."""

import json
import tomllib
from dataclasses import asdict
from typing import Any

import pytest

import mlray as ml
from mlray.errors import ConfigError
from mlray.gates.settings import Bias, Evaluation
from mlray.recipe import Recipe


def gates(toml: str) -> ml.Gates:
    return ml.Gates.from_json(tomllib.loads(toml).get("gates", {}))


def test_gates_that_need_no_word_and_no_extra_are_on_by_themselves() -> None:
    found = gates("")
    assert found == ml.Gates()
    assert [name for name, one in asdict(found).items() if one] == ["data_validation", "leakage", "evaluation"]


def test_a_table_says_what_a_gate_asks_for_true_takes_it_as_it_is_and_false_leaves_it_out() -> None:
    found = gates("""
        [gates]
        leakage = false
        explanation = true
        [gates.evaluation]
        slices = ["country", "amount"]
        bins = {amount = 4}
        threshold = 1
        [gates.bias]
        groups = ["gender"]
        stop = true
    """)
    assert found.leakage is None
    assert found.explanation is not None
    assert found.evaluation == Evaluation(slices=("country", "amount"), bins={"amount": 4}, threshold=1.0)
    assert found.bias == Bias(groups=("gender",), stop=True)
    assert found.stops("bias")
    assert not any(found.stops(name) for name in ("evaluation", "leakage", "model_card"))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"bais": {}}, r"\[gates\]: there is no setting 'bais'.* did you mean 'bias'"),
        ({"bias": {"group": ["x"]}}, r"\[gates.bias\]: there is no setting 'group'.* did you mean 'groups'"),
        ({"bias": {}}, "needs groups"),
        ({"bias": {"groups": "gender"}}, r"\[gates.bias\] groups='gender'"),
        ({"evaluation": {"samples": "many"}}, r"\[gates.evaluation\] samples='many'"),
        ({"evaluation": {"bins": {"amount": 4}}}, "column 'amount' is not among slices"),
        ({"leakage": {"max_auc": 0.3}}, "between 0.5, a coin's, and 1"),
        ({"leakage": 3}, "a table, or true or false"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ml.Gates.from_json(tables)


def test_the_flights_go_through_every_gate_that_production_asks_for() -> None:
    recipe = Recipe.load("configs/flights.toml")
    found = ml.Gates.from_json(recipe.gates)
    assert found.data_validation is not None
    assert found.data_validation.schema == "configs.flights.checks:schema"
    assert found.bias == Bias(groups=("origin",), max_equalized_odds=0.2)
    assert recipe.card
    assert json.dumps(asdict(found))  # what names the run
