"""One training set on a Ray cluster of several nodes on this machine; prints the digests of its rows as JSON."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from ray.cluster_utils import Cluster

import mlray as ml
from benchmarks import check, session
from benchmarks.as_of import LATEST
from benchmarks.windows import recent
from mlray import cluster
from mlray.offline.plan import Strategy

SERVICE = ml.FeatureService("both", features=[LATEST, recent(["1d", "30d"])])
"""Eight latest values, and sum, count, mean and max over two windows."""

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # a local Ray has set this to "token" in the process that asks
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_num_workers_soft_limit": "10",
}


@dataclass(frozen=True)
class Answer:
    """How many nodes, which join, seconds of the build, and the digest of its rows."""

    nodes: int
    join: str
    seconds: float
    digest: str


def answers(lake: Path, nodes: int, joins: Sequence[Strategy]) -> list[Answer]:
    """Asks in a new process: a process joins one cluster in its life."""
    command = [sys.executable, "-m", "benchmarks.nodes", str(lake), str(nodes), *joins]
    done = subprocess.run(command, env=os.environ | _ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{nodes} nodes ended with {done.returncode}: {done.stderr}")
    return [Answer(**answer) for answer in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Starts the nodes, one logical CPU each, and builds with each join."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("lake", type=Path)
    parser.add_argument("nodes", type=int)
    parser.add_argument("joins", nargs="+", choices=get_args(Strategy))
    given = parser.parse_args()
    node = {"num_cpus": 1, "object_store_memory": 1 << 30, "include_dashboard": False}
    started: Any = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(given.nodes - 1):
        started.add_node(num_cpus=1, object_store_memory=1 << 30)
    cluster.join(started.address)
    found = [asdict(_answer(given.lake, given.nodes, join)) for join in given.joins]
    session.stop()
    started.shutdown()
    print(json.dumps(found))


def _answer(lake: Path, nodes: int, join: Strategy) -> Answer:
    with TemporaryDirectory(dir=lake) as out:
        cost = session.built(lake, SERVICE, join)(Path(out), False)
        return Answer(nodes, join, cost.seconds, check.digest(Path(out) / "set"))


if __name__ == "__main__":
    main()
