"""Every change leaves a row, and no row changes or leaves unseen."""

import pytest

from mlray.errors import Conflict, RegistryUnavailable, UnknownName


@pytest.fixture
def changed(registry, make_run):
    """A registry with four changes: two registrations, an alias that moves once."""
    registry.register("flights", make_run(b"1"), alias="candidate")
    registry.register("flights", make_run(b"2"))
    registry.set_alias("flights", "candidate", 2)
    return registry


def test_each_change_is_one_row_with_before_and_after(changed):
    rows = changed.audit("flights")

    assert [(row["sequence"], row["action"]) for row in rows] == [
        (1, "register"),
        (2, "set_alias"),
        (3, "register"),
        (4, "set_alias"),
    ]
    assert rows[0]["after"]["digest"] == changed.get("flights/1").digest
    assert rows[3]["before"] == {"alias": "candidate", "version": 1}
    assert rows[3]["after"] == {"alias": "candidate", "version": 2}
    assert rows[3]["at"] >= rows[0]["at"]


def test_a_refused_change_leaves_no_row(changed):
    with pytest.raises(UnknownName):
        changed.set_alias("flights", "candidate", 9)

    assert len(changed.audit()) == 4


def test_an_untouched_chain_is_whole(changed):
    assert changed.check_audit() is None


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE audit SET who = 'somebody' WHERE sequence = 2", "audit row 2 was changed"),
        ("DELETE FROM audit WHERE sequence = 2", "audit row 2 is missing"),
        ("DELETE FROM audit WHERE sequence = 4", "audit ends at row 3; 4 were written"),
    ],
)
def test_a_changed_or_missing_row_is_found(changed, execute, tampering, finding):
    execute(tampering)

    assert changed.check_audit() == finding


def test_a_failure_after_the_state_was_written_undoes_it(changed, execute, make_run):
    execute("INSERT INTO audit SELECT 5, at, who, action, model, request || 'x', before, after, '', '' FROM audit "
            "WHERE sequence = 4")

    with pytest.raises(Conflict, match="the database refused the change"):
        changed.register("flights", make_run(b"3"))

    assert execute("SELECT max(version) FROM model_versions") == 2


def test_without_the_end_of_the_chain_nothing_is_changed(changed, execute, make_run):
    execute("DELETE FROM audit_head")

    with pytest.raises(RegistryUnavailable, match="the audit chain has no head"):
        changed.register("flights", make_run(b"3"))

    assert execute("SELECT max(version) FROM model_versions") == 2
