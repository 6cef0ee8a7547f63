"""Searching: one meaning of every condition and order, on either database."""

import base64
import json
from dataclasses import replace
from itertools import chain

import pytest

from mlray.errors import InvalidQuery
from mlray.registry.query import MAX_PAGE, ModelQuery, Order, TagWhere, VersionQuery, Where


def where(field, operator, value):
    return VersionQuery(where=(Where(field=field, operator=operator, value=value),))


def tagged(key, operator, value, **how):
    return VersionQuery(where=(TagWhere(key=key, operator=operator, value=value, **how),))


def by(*fields):
    """Orders: `-version` is descending."""
    return tuple(Order(field=field.removeprefix("-"), descending=field.startswith("-")) for field in fields)


@pytest.fixture
def found(registry):
    """The references that a query finds, on one page."""
    return lambda query: [version.reference for version in registry.search(query).items]


@pytest.fixture
def versions(registry, make_run):
    """fraud/1 to fraud/3 and fraud-eu/1, each with its own run, tags on some, an alias."""
    for number in (1, 2, 3):
        registry.register("fraud", make_run(b"%d" % number, id=f"run-{number}"), tags={"Data": f"Y{number}"})
    registry.register("fraud-eu", make_run(b"4", id="Run-4", service="eu"), alias="candidate", tags={"Data": "y1"})
    registry.register_source("other", "s3://Bucket/a_b", run_id="run-5", tags={"100%": "a*b\\?[c]", "e": "\u00c9"})
    registry.promote("fraud/2", stage="Staging")


ALL = ["fraud/1", "fraud/2", "fraud/3", "fraud-eu/1", "other/1"]


CONDITIONS = [
    (VersionQuery(), ALL),
    (where("name", "=", "fraud"), ["fraud/1", "fraud/2", "fraud/3"]),
    (where("name", "!=", "fraud"), ["fraud-eu/1", "other/1"]),
    (where("name", "LIKE", "fraud%"), ALL[:4]),
    (where("name", "LIKE", "FRAUD%"), []),
    (where("name", "ILIKE", "FRAUD-%"), ["fraud-eu/1"]),
    (where("name", "LIKE", "_raud"), ["fraud/1", "fraud/2", "fraud/3"]),
    (where("name", "IN", ("other", "none")), ["other/1"]),
    (where("name", "IN", ()), []),
    (where("version", "=", 1), ["fraud/1", "fraud-eu/1", "other/1"]),
    (where("version", ">=", 2), ["fraud/2", "fraud/3"]),
    (where("version", "!=", 1), ["fraud/2", "fraud/3"]),
    (where("run_id", "=", "run-3"), ["fraud/3"]),
    (where("run_id", "LIKE", "run%"), ["fraud/1", "fraud/2", "fraud/3", "other/1"]),
    (where("run_id", "ILIKE", "RUN-4"), ["fraud-eu/1"]),
    (where("source", "=", "s3://Bucket/a_b"), ["other/1"]),
    (where("source", "ILIKE", "%bucket%"), ["other/1"]),
    (where("source", "=", ""), ALL[:4]),
    (where("stage", "=", "Staging"), ["fraud/2"]),
    (where("service", "=", "eu"), ["fraud-eu/1"]),
    (where("alias", "=", "candidate"), ["fraud-eu/1"]),
    (where("alias", "LIKE", "cand%"), ["fraud-eu/1"]),
    (where("alias", "!=", "candidate"), ["fraud/1", "fraud/2", "fraud/3", "other/1"]),
    (tagged("Data", "=", "Y1"), ["fraud/1"]),
    (tagged("data", "=", "Y1"), []),
    (tagged("Data", "!=", "Y1"), ["fraud/2", "fraud/3", "fraud-eu/1"]),
    (tagged("Data", "!=", "Y1", or_absent=True), ["fraud/2", "fraud/3", "fraud-eu/1", "other/1"]),
    (tagged("prompt", "=", "false", or_absent=True), ALL),
    (tagged("Data", "LIKE", "Y%"), ["fraud/1", "fraud/2", "fraud/3"]),
    (tagged("Data", "ILIKE", "Y1"), ["fraud/1", "fraud-eu/1"]),
    (tagged("100%", "LIKE", "a*b\\?[c]"), ["other/1"]),
    (tagged("100%", "LIKE", "axb%"), []),
    (tagged("e", "ILIKE", "\u00c9"), ["other/1"]),
    (tagged("e", "ILIKE", "\u00e9"), []),
    (tagged("100%", "ILIKE", "A%\\?[C]"), ["other/1"]),
]


def test_a_condition_finds_what_it_says(versions, found):  # noqa: ARG001
    for query, answer in CONDITIONS:
        assert found(query) == answer, query.where


def test_all_conditions_hold_together(versions, found):  # noqa: ARG001
    both = (Where(field="name", operator="LIKE", value="fraud%"), TagWhere(key="Data", operator="ILIKE", value="y1"))

    assert found(VersionQuery(where=both)) == ["fraud/1", "fraud-eu/1"]
    assert found(VersionQuery(where=(*both, Where(field="version", operator=">", value=1)))) == []


ORDERS = [
    (by(), ALL),
    (by("-name"), ["other/1", "fraud-eu/1", "fraud/3", "fraud/2", "fraud/1"]),
    (by("-version"), ["fraud/3", "fraud/2", "other/1", "fraud-eu/1", "fraud/1"]),
    (by("version", "-name"), ["other/1", "fraud-eu/1", "fraud/1", "fraud/2", "fraud/3"]),
    (by("created_at"), ALL),
    (by("-updated_at"), ["fraud/2", "other/1", "fraud-eu/1", "fraud/3", "fraud/1"]),
    (by("-updated_at", "name", "-version"), ["fraud/2", "other/1", "fraud-eu/1", "fraud/3", "fraud/1"]),
]


def pages(registry, query):
    """The references on each page of a query."""
    page = registry.search(query)
    yield [version.reference for version in page.items]
    while page.next_page_token is not None:
        page = registry.search(replace(query, page_token=page.next_page_token))
        yield [version.reference for version in page.items]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_pages_of_any_size_add_up_to_the_order(registry, versions, size):  # noqa: ARG001
    for order, answer in ORDERS:
        found = list(pages(registry, VersionQuery(order_by=order, limit=size)))
        assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)
        assert list(chain(*found)) == answer, order


def test_text_is_ordered_by_code_points(registry):
    for name in ("a_b", "ab", "a-b", "a1"):
        registry.create(name)

    assert [model.name for model in registry.search_models(ModelQuery()).items] == ["a-b", "a1", "a_b", "ab"]


def test_what_is_registered_between_two_pages_shifts_nothing(registry, make_run):
    for name in ("b", "d", "f"):
        registry.register(name, make_run())
    first = registry.search(VersionQuery(limit=2))
    for name in ("a", "c", "e"):
        registry.register(name, make_run())

    rest = registry.search(VersionQuery(limit=10, page_token=first.next_page_token))

    assert [version.name for version in first.items] == ["b", "d"]
    assert [version.name for version in rest.items] == ["e", "f"]


def test_the_last_page_says_so(registry, make_run):
    for _ in range(4):
        registry.register("fraud", make_run())

    first = registry.search(VersionQuery(limit=2))
    last = registry.search(VersionQuery(limit=2, page_token=first.next_page_token))

    assert (len(last.items), last.next_page_token) == (2, None)
    assert registry.search(where("name", "=", "none")).items == ()


def test_a_page_token_belongs_to_its_query(registry, versions):  # noqa: ARG001
    token = registry.search(VersionQuery(limit=1)).next_page_token

    for other in (where("name", "=", "fraud"), VersionQuery(order_by=by("-name"))):
        with pytest.raises(InvalidQuery, match="this page token belongs to another query"):
            registry.search(replace(other, page_token=token))
    with pytest.raises(InvalidQuery, match="this page token belongs to another query"):
        registry.search_models(ModelQuery(page_token=token))


def test_what_is_no_page_token_is_refused(registry):
    for token in ("", "nonsense", "WzEsMl0=", "W10=", "e30=", "\u00e9", "[" * 5000):
        with pytest.raises(InvalidQuery, match="this page token"):
            registry.search(VersionQuery(page_token=token))


def test_a_page_token_with_a_number_that_no_column_holds_is_refused(registry, versions):  # noqa: ARG001
    query = VersionQuery(limit=1, order_by=by("version"))
    mark, last = json.loads(base64.urlsafe_b64decode(registry.search(query).next_page_token))
    for number in (2**31, -(2**31) - 1, 2**64):
        forged = base64.urlsafe_b64encode(json.dumps([mark, [number, last[1]]]).encode()).decode()
        with pytest.raises(InvalidQuery, match="this page token"):
            registry.search(replace(query, page_token=forged))


def test_models_are_searched_by_name_and_tag(registry):
    registry.create("fraud", tags={"team": "Risk"})
    registry.create("fraud-eu", tags={"team": "eu"})
    registry.create("churn")

    def found(*conditions, **how):
        return [model.name for model in registry.search_models(ModelQuery(where=conditions, **how)).items]

    assert found(Where(field="name", operator="LIKE", value="fraud%")) == ["fraud", "fraud-eu"]
    assert found(TagWhere(key="team", operator="ILIKE", value="risk")) == ["fraud"]
    assert found(TagWhere(key="team", operator="=", value="x", or_absent=True)) == ["churn"]
    assert found(order_by=by("-created_at")) == ["churn", "fraud-eu", "fraud"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: where("nmae", "=", "x"), "there is no field 'nmae'.*did you mean 'name'"),
        (lambda: where("name", "~", "x"), "there is no comparison of name '~'"),
        (lambda: where("version", "LIKE", 1), "there is no comparison of version 'LIKE'"),
        (lambda: where("version", "=", "1"), "version is compared with a number, not with '1'"),
        (lambda: where("name", "=", 1), "name = takes a text, not 1"),
        (lambda: where("name", "IN", "fraud"), "name IN takes a tuple of texts"),
        (lambda: where("name", "=", "a\x00"), "at most 10000 characters and 1000 values, no NUL, no half"),
        (lambda: where("name", "LIKE", "x" * 10_001), "at most 10000 characters"),
        (lambda: VersionQuery(limit=0), "a page holds 1 to 10000 items, 0 were asked for"),
        (lambda: VersionQuery(limit=MAX_PAGE + 1), "a page holds 1 to 10000 items"),
        (lambda: VersionQuery(order_by=by("name", "-name")), "an order names a field once"),
        (lambda: Order(field="size"), "there is no order 'size'"),
        (lambda: ModelQuery(where=where("stage", "=", "None").where), "there is no field of a model 'stage'"),
        (lambda: ModelQuery(order_by=by("version")), "there is no order of models 'version'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_when_it_is_made(make, message):
    with pytest.raises(InvalidQuery, match=message):
        make()


def test_the_newest_version_in_each_stage_of_each_model(registry, versions):  # noqa: ARG001
    found = registry._rules.latest_versions(["fraud", "other", "nobody"])

    assert [(one.reference, one.stage) for one in found] == [
        ("fraud/2", "Staging"),
        ("fraud/3", "None"),
        ("other/1", "None"),
    ]
    assert (found[1].tags, registry._rules.latest_versions([])) == ({"Data": "Y3"}, [])
