"""The one rule of names."""

import unicodedata

import pytest

from mlray.errors import InvalidName, UnknownName
from mlray.registry.reference import Reference


def test_a_plain_name_is_taken(registry, make_run):
    for name in ("flights", "f", "fraud-v2", "a_b", "late1", "production", "none", "x" * 128):
        assert registry.register(name, make_run(), alias=name).reference == f"{name}/1"
        assert registry.get(f"{name}@{name}").name == name


REFUSED = {
    "empty": "",
    "reserved": "latest",
    "a number": "12",
    "begins with a digit": "1flights",
    "an option": "-flights",
    "begins with a sign": "_flights",
    "a capital": "Flights",
    "129 characters": "x" * 129,
    "257 characters": "x" * 257,
    "very long": "x" * 100_000,
    "a path": "a/b",
    "a path up": "..",
    "a path up and away": "../../etc/passwd",
    "a path from the root": "/etc/passwd",
    "a Windows path": "a\\b",
    "a drive": "c:",
    "an alias": "a@b",
    "a dot": "a.b",
    "a dot at the end": "flights.",
    "an escaped slash": "a%2fb",
    "an escaped dot": "%2e%2e",
    "a fragment": "a#b",
    "a query": "a?b",
    "a blank": "a b",
    "a blank at the end": "flights ",
    "NUL": "a\x00",
    "a line": "a\n",
    "composed": unicodedata.normalize("NFC", "\u00e9t\u00e9"),
    "decomposed": unicodedata.normalize("NFD", "\u00e9t\u00e9"),
    "a Cyrillic letter that looks Latin": "\u0430bc",
    "right to left": "flights\u202e",
    "Hebrew": "\u05d0\u05d1",
    "an Arabic digit": "a\u0663",
    "full width": "\uff41bc",
    "half of a pair": "a\ud800",
    "an invisible joiner": "a\u200db",
}


def test_any_other_name_is_refused_and_no_path_is_touched(registry, make_run, tmp_path):
    run = make_run()
    registry.register("flights", run)
    before = sorted(tmp_path.rglob("*"))

    for what, name in REFUSED.items():
        for change in (
            lambda n=name: registry.register(n, run),
            lambda n=name: registry.register("flights", run, alias=n),
            lambda n=name: registry.create(n),
            lambda n=name: registry.copy("flights/1", n),
            lambda n=name: registry.rename("flights", n),
            lambda n=name: registry.set_alias("flights", n, 1),
        ):
            with pytest.raises(InvalidName, match="is refused: a name starts with a lower-case ASCII letter"):
                change()
            assert registry.models() == ["flights"], what
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_found_under_what_is_no_name(registry, make_run):
    registry.register("flights", make_run())

    for what, name in REFUSED.items():
        for look in (
            lambda n=name: registry.model(n),
            lambda n=name: registry._rules.approvals(n, 1),
            lambda n=name: registry._rules.get(f"{n}/1"),
            lambda n=name: registry.audit(n),
            lambda n=name: registry.delete(n),
        ):
            with pytest.raises((InvalidName, UnknownName)):
                pytest.fail(f"{what}: {look()}")
    for number in (0, -1, 2**31, 2**63):
        with pytest.raises(UnknownName):
            registry._rules.approvals("flights", number)


def test_a_reference_names_a_version_an_alias_or_a_stage_that_one_version_is_in():
    assert Reference.parse("flights/Production") == Reference(model="flights", stage="Production")
    assert str(Reference.parse("flights/Production")) == "flights/Production"
    assert str(Reference.parse("flights@candidate")) == "flights@candidate"
    assert Reference.parse("flights/3") == Reference(model="flights", version=3)
    assert Reference.parse("flights@candidate") == Reference(model="flights", alias="candidate")
    assert str(Reference.parse("flights/3")) == "flights/3"


@pytest.mark.parametrize(
    "text",
    ["", "flights", "flights/", "flights/0", "flights/03", "flights/-1", "flights/3.0", "flights/٣", "flights/latest",
     "flights/Staging", "flights/None", "flights/production"],
)
def test_any_other_reference_is_refused_with_the_forms(text):
    with pytest.raises(InvalidName, match=r"write <model>/<version> as in flights/3, <model>@<alias> as"):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["flights@", "@candidate", "flights@latest", "../etc@candidate", "a/../b/3"])
def test_a_reference_with_a_wrong_name_is_refused(text):
    with pytest.raises(InvalidName):
        Reference.parse(text)


def test_a_version_number_beyond_the_database_is_no_reference():
    with pytest.raises(InvalidName):
        Reference.parse("flights/99999999999999999999")
