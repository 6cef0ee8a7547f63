"""What a feature is, in a few words, as its declaration says it."""

import ast
from collections.abc import Iterator

from mlray.aggregation.aggregate import Aggregate
from mlray.aggregation.window import Window, duration_name
from mlray.features.on_demand import OnDemand
from mlray.features.service import FeatureService, Item
from mlray.features.source import RequestFields
from mlray.features.view import BoundView, FeatureView


def described_view(view: FeatureView) -> dict[str, str]:
    """A description of each feature of the view, by its name, in order."""
    return {name: text for feature in view.features for name, text in _of(view, feature)}


def described(service: FeatureService) -> dict[str, str]:
    """A description of each feature of the service, by its name there, in order."""
    return {name: text for item in service.items for name, text in _item(item)}


def _item(item: Item) -> Iterator[tuple[str, str]]:
    if isinstance(item, OnDemand):
        said = _docstring(item)
        yield item.name, f"computed from {', '.join(item.parameters)}" + (f": {said}" if said else "")
    elif isinstance(item, RequestFields):
        yield from ((column, f"sent with the request ({item.source.name})") for column in item.columns)
    else:
        yield from _bound(item)


def _bound(bound: BoundView) -> Iterator[tuple[str, str]]:
    texts = described_view(bound.view)
    by = ", ".join(f"{key} = {column}" for key, column in bound.keys)
    for name in bound.chosen or bound.view.names:
        yield bound.renamed[name], texts[name] + (f", by {by}" if by else "")


def _of(view: FeatureView, feature: str | Aggregate) -> Iterator[tuple[str, str]]:
    if isinstance(feature, str):
        age = "" if view.ttl_us is None else f", at most {duration_name(view.ttl_us)} old"
        yield feature, f"{feature} in the newest row of {view.source.name}{age}"
        return
    for window in feature.spans:
        yield feature.feature_name(window), f"{_what(feature)} {_when(window)} of {view.source.name}"


def _what(aggregate: Aggregate) -> str:
    kind = aggregate.kind.replace("_", " ")
    parameters = "".join(f", {name}={value}" for name, value in aggregate.parameters.items())
    where = f" where {aggregate.where}" if aggregate.where else ""
    return f"{kind}{f' of {aggregate.column}' if aggregate.column else ''}{parameters}{where}"


def _when(window: Window) -> str:
    length = "over all time" if window.length is None else f"over {duration_name(window.length)}"
    return length + (f" until {duration_name(window.offset)} before" if window.offset else "")


def _docstring(function: OnDemand) -> str:
    body = ast.parse(function.text).body
    defined = next(node for node in body if isinstance(node, ast.FunctionDef))
    return (ast.get_docstring(defined) or "").partition("\n")[0]
