"""A market's tables, a service over them that is joined in every way, and a gate at which its parts can be held."""

import fcntl
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from deltalake import write_deltalake
from numpy.random import Generator

import mlray as ml

START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
DAY = 86_400_000_000
EVENTS, USERS = 20_000, 900
NODE_ID = 56
"""Characters of the name of a node."""
LATE_USERS = (0, 2)
"""Users whose spine rows are held at the gate; of 8 parts, they are in the last two."""

WINDOWS = [ml.hours(1), ml.days(1), ml.lifetime]
purchases = ml.DeltaSource("purchases", path="purchases", timestamp="at")
sales = ml.DeltaSource("sales", path="sales", timestamp="at")
rates = ml.DeltaSource("rates", path="rates", timestamp="at")

spending = ml.FeatureView(
    "spending",
    entity=ml.Entity("user", keys=["user_id"]),
    source=purchases,
    features=["amount", *(kind("amount", windows=WINDOWS) for kind in (ml.Sum, ml.Mean, ml.Var, ml.Median)),
              ml.Count(windows=WINDOWS)],
)
turnover = ml.FeatureView(
    "turnover",
    entity=ml.Entity("shop", keys=["shop"]),
    source=sales,
    features=[ml.Sum("price", windows=WINDOWS), ml.LastN("price", n=3, windows=[ml.days(1)])],
)
rate = ml.FeatureView("rate", entity=ml.Entity("country", keys=["country"]), source=rates, features=["rate"])


@ml.on_demand(spending, ml.RequestSource("request", schema={"gate": str}))
def passed(amount, gate):  # type: ignore[no-untyped-def]
    """The amount; rows that name a gate wait there."""
    for folder in sorted({name for name in gate if name}):
        with open(os.path.join(folder, "lock")) as lock, open(os.path.join(folder, "told"), "w") as told:
            told.write(ray.get_runtime_context().get_node_id())
            told.flush()
            fcntl.flock(lock, fcntl.LOCK_SH)
    return amount


@ml.on_demand(spending, ml.RequestSource("request", schema={"gate": str}))
def broken(amount, gate):  # type: ignore[no-untyped-def]
    """The amount; rows without a late user among them fail."""
    if not any(gate):
        raise ValueError("no late user is here")
    return amount


service = ml.FeatureService("market", features=[spending, turnover, rate, passed])
other = ml.FeatureService("other", features=[spending["amount"], passed])
failing = ml.FeatureService("broken", features=[passed, broken])
NUMBERS = [f"n{i}" for i in range(12)]


def wide(name: str) -> ml.FeatureService:
    """Sums over many columns of the table of that name."""
    source = ml.DeltaSource(name, path=name, timestamp="at")
    sums = [ml.Sum(column, windows=[ml.days(1), ml.lifetime]) for column in NUMBERS]
    user = ml.Entity("user", keys=["user_id"])
    return ml.FeatureService(name, features=[ml.FeatureView(name, entity=user, source=source, features=sums)])


SERVICES = {"market": service, "other": other, "broken": failing, "little": wide("little"), "much": wide("much")}


def write_lake(lake: Path, gate: Path, events: int = EVENTS, rows: int = 4_000) -> None:
    """Purchases and sales in several files, few rates, and the spine; doubles of every magnitude."""
    rng = np.random.default_rng(1)
    for name, key, value, size in (
        ("purchases", rng.integers(0, USERS, events), "amount", events),
        ("sales", np.char.mod("shop %d", rng.integers(0, 300, events // 2)), "price", events // 2),
        ("rates", np.char.mod("C%d", rng.integers(0, 20, 200)), "rate", 200),
    ):
        keyed = {"purchases": "user_id", "sales": "shop", "rates": "country"}[name]
        table = pa.table({keyed: key, "at": _times(rng, size), value: _doubles(rng, size)})
        for start in range(0, size, -(-size // 4)):
            write_deltalake(str(lake / name), table.slice(start, -(-size // 4)), mode="append")
    for start in range(0, rows, rows // 2):
        write_deltalake(str(lake / "spine"), spine(rng, gate, rows).slice(start, rows // 2), mode="append")


def spine(rng: Generator, gate: Path, rows: int) -> pa.Table:
    users = rng.integers(0, USERS, rows)
    return pa.table({
        "user_id": users,
        "shop": np.char.mod("shop %d", rng.integers(0, 310, rows)),
        "country": np.char.mod("C%d", rng.integers(0, 21, rows)),
        "timestamp": _times(rng, rows),
        "gate": pa.array([str(gate) if user in LATE_USERS else None for user in users], pa.string()),
    })


def _times(rng: Generator, size: int) -> pa.Array:
    return pa.array(START + rng.integers(0, 4 * DAY, size), pa.timestamp("us", tz="UTC"))


def _doubles(rng: Generator, size: int) -> np.ndarray:
    return rng.standard_normal(size) * 10.0 ** rng.integers(-290, 290, size)


def bits(table: pa.Table) -> Counter[str]:
    """Every row, and how often it is there."""
    return Counter(map(repr, table.select(sorted(table.column_names)).to_pylist()))


@dataclass
class Gate:
    """Holds the tasks that come to it while it is shut; each tells the node that it runs on."""

    folder: Path

    def __post_init__(self) -> None:
        os.mkfifo(self.folder / "told")
        # Open for writing too: it never ends, and nobody waits to write to it.
        self._told = os.open(self.folder / "told", os.O_RDWR)
        self._locks = [os.open(self.folder / "lock", os.O_CREAT)]

    def close(self) -> None:
        for file in [self._told, *self._locks]:
            os.close(file)

    def shut(self) -> None:
        """Whoever comes from now on waits until it is opened."""
        self._locks.append(os.open(self.folder / "fresh", os.O_CREAT))
        fcntl.flock(self._locks[-1], fcntl.LOCK_EX)
        (self.folder / "fresh").replace(self.folder / "lock")
        os.set_blocking(self._told, False)
        with suppress(BlockingIOError):
            while os.read(self._told, 1 << 16):  # those that came before
                pass
        os.set_blocking(self._told, True)

    def bypass(self) -> None:
        """Whoever waits, waits on until it is opened; whoever comes, passes."""
        (self.folder / "fresh").touch()
        (self.folder / "fresh").replace(self.folder / "lock")

    def open(self) -> None:
        """Everyone passes."""
        for lock in self._locks:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def arrival(self) -> str:
        """The node of the next task that came; waits for one."""
        return os.read(self._told, NODE_ID).decode()
