"""Searches as text: what each clause means, and where an error points."""

import pytest

from mlray.errors import InvalidQuery
from mlray.registry.query import Order, TagWhere, VersionQuery, Where
from mlray.registry_server.filter import parse_filter, parse_order


def where(field, operator, value):
    return Where(field=field, operator=operator, value=value)


def tag(key, operator, value):
    return TagWhere(key=key, operator=operator, value=value)


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("", ()),
        ("  ", ()),
        ("name = 'fraud'", (where("name", "=", "fraud"),)),
        ('attribute.name ilike "F%"', (where("name", "ILIKE", "F%"),)),
        ("name='a'AND version>=3", (where("name", "=", "a"), where("version", ">=", 3))),
        ("tags.a.b != 'it''s'", (tag("a.b", "!=", "it's"),)),
        ("tag.`two words` LIKE '%x_'", (tag("two words", "LIKE", "%x_"),)),
        ("run_id IN ('a', 'b')", (where("run_id", "IN", ("a", "b")),)),
        ("run_id NOT IN ('a', 'b')", (where("run_id", "!=", "a"), where("run_id", "!=", "b"))),
        ("name = 'a AND b' and stage = 'None'", (where("name", "=", "a AND b"), where("stage", "=", "None"))),
    ],
)
def test_a_filter_means(text, conditions):
    assert parse_filter(text) == conditions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'a' OR name = 'b'", r"at character 12: AND or the end is due, not 'OR'"),
        ("name = a", r"at character 8: a text in quotes, or a number is due, not 'a'"),
        ("name = 'a", r"at character 8: .* cannot be read; the text's closing quote is missing"),
        ("nam = 'a'", r"at character 1: there is no field 'nam'; .*did you mean 'name'"),
        ("name NOT LIKE 'a'", r"at character 10: IN is due, not 'LIKE'"),
        ("name IN ('a' 'b')", r"at character 14: a comma or a closing bracket is due"),
        ("(name = 'a')", r"at character 1: a field or tags.KEY is due, not '\('"),
        ("name = 'a' AND", r"at character 15: a field or tags.KEY is due, not the end"),
        ("name = 'a'; DROP TABLE models", r"at character 11: '; DROP TABLE models' cannot be read"),
        ("tags.a > 'b'", r"from character 1: there is no comparison of tag 'a' '>'"),
        ("version = 'a'", r"from character 1: version is compared with a number, not with 'a'"),
        (" AND ".join(["name = 'a'"] * 51), r"a query has at most 50 conditions"),
    ],
)
def test_an_error_points_at_the_character(text, message):
    with pytest.raises(InvalidQuery, match=message):
        VersionQuery(where=parse_filter(text))


def test_an_order_is_a_field_and_a_direction():
    assert parse_order("created_at") == parse_order("created_at asc") == Order(field="created_at")
    assert parse_order("version DESC") == Order(field="version", descending=True)
    for text in ("size", "version UP", "", "version DESC NULLS"):
        with pytest.raises(InvalidQuery, match="order_by"):
            parse_order(text)
