"""The one rule of names."""

import unicodedata

import pytest

from mlray.errors import InvalidName
from mlray.registry.reference import Reference, checked_name


@pytest.mark.parametrize("name", ["flights", "f", "fraud-v2", "a_b", "late1", "x" * 128])
def test_a_plain_name_is_taken(name):
    assert checked_name("model", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "latest",
        "12",
        "1flights",
        "-flights",
        "_flights",
        "Flights",
        "x" * 129,
        "x" * 100_000,
        "a/b",
        "a@b",
        "..",
        "a.b",
        "a%2fb",
        "a#b",
        "a b",
        "a\x00",
        "a\n",
        unicodedata.normalize("NFC", "é"),
        unicodedata.normalize("NFD", "é"),
        "\u0430bc",  # a Cyrillic letter that looks Latin
        "flights\u202e",
        "a٣",
    ],
)
def test_any_other_name_is_refused(registry, make_run, name):
    with pytest.raises(InvalidName, match="is refused: a name starts with a lower-case ASCII letter"):
        registry.register(name, make_run())
    with pytest.raises(InvalidName, match="is refused"):
        registry.register("flights", make_run(), alias=name)

    assert registry.models() == []


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
