"""Gates: found by the run, kept in the artifact, taken from nobody."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from mlray.errors import NotApproved, SchemaError
from mlray.registry.gates import GATES_FILE, Gate, write_gates
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import VersionRecord
from mlray.registry.policy import Policy

PASSED = Gate(passed=True, value=0.755, threshold=0.7, link="https://ci.example/7")
GATES = ("data_validation", "evaluation", "bias", "model_card")
FAILED = Gate(passed=False, value=0.61, threshold=0.7)


def approved(team, gates):
    version = team.ana.register("fraud", team.make_run(b"1", gates=gates))
    team.ben.approve(version, stage="Production", role="ml_engineer")
    team.cleo.approve(version, stage="Production", role="risk_officer")
    return version


def test_a_gate_that_the_run_has_passed_opens_the_stage(team):
    assert team.ana.promote(approved(team, {"evaluation": PASSED}), stage="Production").stage == "Production"


@pytest.mark.parametrize(
    ("gates", "lacks"),
    [
        (None, "gate 'evaluation': the run left no result"),
        ({"bias": PASSED}, "gate 'evaluation': the run left no result"),
        ({"evaluation": FAILED}, "gate 'evaluation': failed with 0.61, asked for 0.7"),
    ],
)
def test_a_gate_without_a_result_or_failed_holds_the_version_back(team, gates, lacks):
    with pytest.raises(NotApproved, match=f"fraud/1 may not enter Production, it lacks .*{lacks}"):
        team.ana.promote(approved(team, gates), stage="Production")


def test_results_of_another_model_or_run_are_refused(team):
    good = Path(team.make_run(b"good", gates={"evaluation": PASSED}).checkpoint)
    bad = team.make_run(b"bad")
    (Path(bad.checkpoint) / GATES_FILE).write_text((good / GATES_FILE).read_text())

    with pytest.raises(SchemaError, match=r"gates.json of artifact .* is of run 'run-1' and the files .*counts for"):
        team.ana.register("fraud", bad)
    with pytest.raises(SchemaError, match=r"this is run 'run-2'"):
        team.ana.register("fraud", dataclasses.replace(team.make_run(b"good"), id="run-2"))
    assert team.ana.models() == []


def test_a_result_added_later_makes_another_artifact_whose_approvals_start_from_nothing(team):
    first = approved(team, None)
    run = team.make_run(b"1", gates={"evaluation": PASSED})
    second = team.ana.register("fraud", run)

    assert first.digest != second.digest
    with pytest.raises(NotApproved, match=r"the run left no result"):
        team.ana.promote(first, stage="Production")
    with pytest.raises(NotApproved, match=r"an approval as ml_engineer; an approval as risk_officer$"):
        team.ana.promote(second, stage="Production")


def test_no_call_carries_a_result():
    named = [name for _, method in inspect.getmembers(ModelRegistry, inspect.isfunction)
             for name in inspect.signature(method).parameters]

    assert not [name for name in named if "gate" in name]
    assert not [field.name for field in dataclasses.fields(VersionRecord) if "gate" in field.name]


@pytest.mark.parametrize("gate", GATES)
def test_a_policy_asks_for_each_gate_by_its_name(team, gate):
    team.root.set_policy(Policy.parse({"stages": {"Canary": {"gates": [gate]}}}))
    others = dict.fromkeys({*GATES} - {gate}, PASSED)
    without, failed, passed = (
        team.ana.register("fraud", team.make_run(bytes([i]), gates=others | own))
        for i, own in enumerate(({}, {gate: FAILED}, {gate: PASSED}))
    )

    with pytest.raises(NotApproved, match=rf"fraud/1 may not enter Canary, it lacks gate '{gate}': the run left no"):
        team.ana.promote(without, stage="Canary")
    with pytest.raises(NotApproved, match=rf"gate '{gate}': failed with 0.61, asked for 0.7"):
        team.ana.promote(failed, stage="Canary")
    assert team.ana.promote(passed, stage="Canary").stage == "Canary"


def test_production_asks_for_every_gate_and_says_where_each_comes_from(team):
    run = team.make_run(b"1", gates={})
    write_gates(run.checkpoint, run.id, {"evaluation": PASSED})
    version = team.ana.register("fraud", run)

    with pytest.raises(NotApproved) as refusal:
        team.ana.promote(version, stage="Production")
    assert [f"gate '{gate}'" in str(refusal.value) for gate in GATES] == [True, False, True, True]
    assert "gate 'bias': the run left no result; train with [gates.bias]" in str(refusal.value)
    assert "gate 'model_card': the run left no result; train with [model.card]" in str(refusal.value)


@pytest.mark.parametrize("gate", GATES)
def test_a_tag_a_description_or_a_file_by_hand_is_no_result(team, gate):
    team.root.set_policy(Policy.parse({"stages": {"Canary": {"gates": [gate]}}}))
    run = team.make_run(b"1", gates={})
    (Path(run.checkpoint) / f"{gate}.json").write_text('{"passed": true}')
    write_gates(run.checkpoint, run.id, {})
    version = team.ana.register("fraud", run, tags={gate: "passed"}, description=f"{gate}: passed")
    team.ana.tag("fraud/1", f"gate.{gate}", "passed")
    team.ana.tag("fraud", gate, "passed")

    with pytest.raises(NotApproved, match=rf"gate '{gate}': the run left no result"):
        team.ana.promote(version, stage="Canary")


def test_a_metric_is_no_gate(team):
    run = team.make_run(b"1", metrics={"evaluation": 1.0}, config={"gates": {"evaluation": True}})
    version = team.ana.register("fraud", run)

    with pytest.raises(NotApproved, match=r"gate 'evaluation': the run left no result"):
        team.ana.promote(version, stage="Production")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"gates":{"evaluation":{"passed":1}}}', '{"gates":{"evaluation":{"ok":true}}}']
)
def test_a_file_that_no_run_writes_is_refused_at_once(team, text):
    run = team.make_run(b"1")
    (Path(run.checkpoint) / GATES_FILE).write_text(text)

    with pytest.raises(SchemaError, match=r"is not what a run writes"):
        team.ana.register("fraud", run)


def test_results_written_twice_are_the_last_ones(team):
    run = team.make_run(b"1", gates={"evaluation": Gate(passed=False)})
    write_gates(run.checkpoint, run.id, {"evaluation": PASSED})

    kept = json.loads((Path(run.checkpoint) / GATES_FILE).read_text())
    assert kept["gates"]["evaluation"]["passed"] is True
    assert sorted(path.name for path in Path(run.checkpoint).parent.iterdir() if path.name.startswith(".")) == []
