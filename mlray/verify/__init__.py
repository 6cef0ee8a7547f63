"""The law, checked: a training row as of q against the online answer at q, per cell, to the bit.

`verify` has two parts: see `replay` and `live`. Both are compared with a training set of the same rows at the same
Delta versions. `verify_log` compares what a served model was given: see `log`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlray.errors import NotMaterialized
from mlray.features.service import FeatureService
from mlray.offline.training_set import build
from mlray.online.store import OnlineStore
from mlray.verify.cells import same_bits
from mlray.verify.live import live
from mlray.verify.log import FRESHNESS, verify_log
from mlray.verify.replay import replayed
from mlray.verify.result import SHOWN, Difference, Event, LogVerification, Verification
from mlray.verify.sample import chosen, sampled_spine

__all__ = [
    "FRESHNESS",
    "Difference",
    "Event",
    "LogVerification",
    "Verification",
    "same_bits",
    "sampled_spine",
    "verify",
    "verify_log",
]


def verify(
    service: FeatureService,
    store: OnlineStore,
    lake: str,
    spine: Any,
    timestamp: str,
    *,
    rows: int,
    replay: OnlineStore,
    folder: str | Path,
    clock: Callable[[], float] = time.perf_counter,
) -> Verification:
    """Compares `rows` rows of the spine, evenly taken from it in time order, in both parts.

    replay: an empty store, folder: an empty folder; both are left filled. Ray must be running.
    """
    started = clock()
    asked = chosen(spine, lake, timestamp, rows)
    offline = build(service, asked, lake=lake, label=None, timestamp=timestamp)
    parts, skipped = [replayed(offline, asked, lake, replay, str(folder))], []
    try:
        parts.append(live(service, store, lake, asked, timestamp))
    except NotMaterialized as error:
        skipped.append(f"the online store in use: {error}")
    return Verification(
        service.name,
        sum(part.rows for part in parts),
        sum(part.cells for part in parts),
        sum(part.different for part in parts),
        sum(part.excused for part in parts),
        clock() - started,
        tuple(told for part in parts for told in part.told)[:SHOWN],
        tuple(skipped),
    )
