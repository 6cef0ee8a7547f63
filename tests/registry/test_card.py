"""The model card: what people say and what was recorded, as Markdown and as a page; the gate that it is complete."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import mlray as ml
from mlray.errors import ConfigError, NotApproved, SchemaError
from mlray.features.catalog import service_hash, service_text
from mlray.registry.card_text import CARD_FILE, card_gate, write_card
from mlray.registry.gates import Gate, write_gates
from mlray.registry.policy import Policy

DEPARTURES = ml.DeltaSource("departures", path="lake/departures", timestamp="at")
RECENT = ml.FeatureView("recent", entity=ml.Entity("airport", keys=["origin"]), source=DEPARTURES, features=[
    ml.Count(windows=[ml.hours(1)]), ml.Mean("delay", windows=[ml.days(1)])])
FLIGHTS = ml.FeatureService("flights", features=[RECENT])
SAID = {"purpose": "Tells late flights.", "owner": "operations", "limits": "Not for <b>refunds</b> | nor *law*."}
EVALUATION = {"whole": {"auc": {"value": 0.75, "low": 0.7, "high": 0.8}}, "slices": [
    {"column": "origin", "slice": "JFK", "rows": 1200, "value": 0.71, "low": 0.6, "high": 0.8, "small": False},
    {"column": "origin", "slice": "LGA", "rows": 3, "value": None, "low": None, "high": None, "small": True,
     "why": "fewer than 200 rows"}]}
REASONS = {"unit": "log-odds", "importance": {"delay_mean_1d": 0.31, "count_1h": 0.02}}
BIAS = {"groups": [{"column": "carrier", "groups": [{"group": "AA", "rows": 1500, "selection_rate": 0.25}]}]}
RECORDED = {"timestamp": "at", "label": "is_late", "types": {"count_1h": "int64", "delay_mean_1d": "double"},
            "spine": {"kept": "ef" * 32, "rows": 327346, "span": [0, 86_400_000_000]}}


@pytest.fixture
def run(make_run):
    """A run with all that a card can tell."""
    made = make_run(b"1", metrics={"test_auc": 0.75, "test_brier": 0.1, "rows_train": 300_000.0, "seconds": 9.0},
                    service_definition=service_text(FLIGHTS), service_hash=service_hash(FLIGHTS),
                    provenance={"commit": "ab12", "dirty": False, "packages": {"ray": "2.60.0"},
                                "training_set": RECORDED})
    write_card(made.checkpoint, SAID)
    found = {"evaluation": {"details": EVALUATION, "problems": ["slice LGA is small"]}, "bias": {"details": BIAS},
             "explanation": {"details": REASONS}}
    (Path(made.checkpoint) / "evidence.json").write_text(json.dumps({"gates": found}))
    results = {"evaluation": Gate(passed=True, value=0.75, threshold=0.7), "model_card": card_gate(SAID)}
    write_gates(made.checkpoint, made.id, results)
    return made


def test_a_card_tells_purpose_data_features_metrics_gates_approvals_and_limits(team, run):
    version = team.ana.register("late", run)
    team.ben.approve(version, stage="Production", role="ml_engineer")

    text = team.ana.card("late/1").markdown()

    for line in (
        "# Model card: late/1",
        "### Purpose\n\nTells late flights.",
        "| departures | lake/departures | 4 |",
        "| rows | 327,346 |",
        "| rows by part | train 300,000 |",
        "| test_brier | 0.1 |  |",
        "| period | 1970-01-01T00:00:00+00:00 to 1970-01-02T00:00:00+00:00 |",
        "| delay_mean_1d | double | mean of delay over 1d of departures |",
        "| test auc | 0.75 | 0.7 to 0.8 |",
        "| origin | JFK | 1,200 | 0.71 | 0.6 to 0.8 |",
        "| origin | LGA | 3 | not judged: fewer than 200 rows |  |",
        "| delay_mean_1d | 0.31 | log-odds |",
        "| carrier | AA | 1,500 | 0.25 |  |  |",
        "| evaluation | passed | 0.75 | 0.7 | slice LGA is small |",
        "| model_card | passed | 3 | 3 |  |",
        "| code | commit ab12 |",
    ):
        assert line in text, text
    assert re.search(r"\| ben \| ml_engineer \| Production \| \S+ \| yes \|", text)


def test_what_people_write_is_text_in_either_form(team, run):
    card = team.ana.card(team.ana.register("late", run))

    assert r"Not for &lt;b&gt;refunds&lt;/b&gt; \| nor \*law\*." in card.markdown()
    assert "Not for &lt;b&gt;refunds&lt;/b&gt; | nor *law*." in card.html()
    assert "<b>" not in card.html()


def test_a_page_needs_nothing_else(team, run):
    page = team.ana.card(team.ana.register("late", run)).html()

    assert page.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)


def test_what_nobody_recorded_is_said_to_be_missing(team, make_run):
    text = team.ana.card(team.ana.register("late", make_run(b"1"))).markdown()

    assert "### Limits\n\nNot said." in text
    assert "| period | not recorded |" in text
    assert "## Gates\n\nNone recorded." in text
    assert "## Approvals\n\nNone recorded." in text


@pytest.mark.parametrize("lacks", ["purpose", "owner", "limits"])
def test_the_gate_of_the_card_fails_where_a_required_field_is_empty(lacks):
    assert card_gate(SAID) == Gate(passed=True, value=3, threshold=3)
    assert card_gate({**SAID, lacks: " \n"}) == Gate(passed=False, value=2, threshold=3)
    assert not card_gate({}).passed


def test_a_policy_that_asks_for_the_card_holds_a_version_without_one_back(team, make_run):
    team.root.set_policy(Policy.parse({"stages": {"Canary": {"gates": ["model_card"]}}}))
    run = make_run(b"1", gates={"model_card": card_gate({"purpose": "Tells."})})

    with pytest.raises(NotApproved, match="gate 'model_card': failed with 1, asked for 3"):
        team.ana.promote(team.ana.register("late", run), stage="Canary")


def test_the_text_is_part_of_what_is_approved(team, run):
    first = team.ana.register("late", run)
    write_card(run.checkpoint, {**SAID, "limits": "None."})
    write_gates(run.checkpoint, run.id, {"model_card": card_gate(SAID)})

    assert team.ana.register("late", run).digest != first.digest


def test_a_card_that_no_run_writes_is_refused(team, make_run, run):
    with pytest.raises(ConfigError, match=r"\[model.card\] limits=3 is no text"):
        write_card(run.checkpoint, {"limits": 3})
    other = make_run(b"2")
    (Path(other.checkpoint) / CARD_FILE).write_text("[1]")

    with pytest.raises(SchemaError, match=r"card.json of artifact .* is not what a run writes"):
        team.ana.card(team.ana.register("late", other))


def test_a_version_of_an_unreadable_definition_still_has_its_card(team, run):
    card = team.ana.card(team.ana.register("late", replace(run, service_definition="{}")))

    assert "| delay_mean_1d | double |  |" in card.markdown()
