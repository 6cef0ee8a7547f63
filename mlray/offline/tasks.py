"""Running Ray tasks that were started together."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ray

from mlray._ray_compat import mlray_errors

What = TypeVar("What")


def as_done(started: Mapping[Any, What]) -> Iterator[tuple[What, Any]]:
    """What each reference stands for and its value, as they come. Where one fails or the caller stops, the rest is
    killed, and nothing of it runs any more.
    """
    running = dict(started)
    try:
        while running:
            (ref,), _ = ray.wait(list(running), num_returns=1)
            with mlray_errors():
                value = ray.get(ref)
            yield running.pop(ref), value
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), fetch_local=False)
