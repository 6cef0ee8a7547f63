"""Descriptions and tags: what may be said, and that it is kept as it was said."""

import pytest

from mlray.errors import InvalidName, UnknownName


def test_models_and_versions_are_described_and_tagged_apart(team):
    team.version()
    team.ana.describe("fraud", "card fraud")
    team.ana.describe("fraud/1", "the first")
    team.ana.tag("fraud", "team", "risk")
    team.ana.tag("fraud/1", "data", "2026")

    model, version = team.ana.model("fraud"), team.ana.get("fraud/1")

    assert (model.description, model.tags) == ("card fraud", {"team": "risk"})
    assert (version.description, version.tags) == ("the first", {"data": "2026"})
    assert version.updated_at > version.created_at
    assert version.row_version == 0


def test_a_tag_is_written_over_and_deleted(team):
    version = team.version()
    for value in ("1", "2", "2"):
        team.ana.tag(version, "data", value)
    assert team.ana.get("fraud/1").tags == {"data": "2"}
    before = [row["before"] for row in team.ana.audit("fraud") if "unchanged" not in row["after"]]
    assert before[1:] == [None, {"version": 1, "key": "data", "value": "1"}]

    team.ana.untag("fraud/1", "data")

    assert team.ana.get("fraud/1").tags == {}
    with pytest.raises(UnknownName, match="fraud/1 has no tag 'data' to delete"):
        team.ana.untag("fraud/1", "data")


TEXTS = ["", "Ünïcode", "e\u0301 and \u00e9", "\u202eright to left", "% _ \\ ' \"", "line\nline", "x" * 100_000]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_as_it_went(team, text):
    team.version()
    team.ana.describe("fraud", text)
    team.ana.tag("fraud/1", "e\u0301/key", text)

    assert team.ana.model("fraud").description == text
    assert team.ana.get("fraud/1").tags == {"e\u0301/key": text}
    assert team.ana.check_audit() is None


@pytest.mark.parametrize("text", ["\x00", "\ud800", "x" * 100_001])
def test_text_that_no_database_keeps_is_refused(team, text):
    team.version()

    for change in (lambda: team.ana.describe("fraud", text), lambda: team.ana.tag("fraud", "key", text)):
        with pytest.raises(InvalidName, match=r"holds a NUL or half of a surrogate|has at most 100000 characters"):
            change()


@pytest.mark.parametrize("key", ["", " key", "a\nb", "x" * 251, "a\x00"])
def test_a_key_is_one_plain_line(team, key):
    team.version()

    with pytest.raises(InvalidName, match="tag key"):
        team.ana.tag("fraud", key, "value")
