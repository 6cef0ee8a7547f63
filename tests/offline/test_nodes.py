"""One node or four, whole or with one killed in the middle: the same bits."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import market
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from builder import Builder, started
from deltalake import DeltaTable
from market import bits
from ray.cluster_utils import Cluster

NOTICES_DEATH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_timeout_ms": 2_000,
                 "health_check_failure_threshold": 5}
IN_STORE = {"max_direct_call_object_size": 256}
"""Also small objects lie in a node's object store, and are lost with it."""


@dataclass
class Nodes:
    """A cluster of nodes, and a process on its head that builds training sets."""

    cluster: Cluster
    builder: Builder
    gate: market.Gate
    folder: Path

    def grow(self, count: int) -> None:
        """At least so many nodes; the new ones have one CPU each."""
        while 1 + len(self.cluster.worker_nodes) < count:
            self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20)

    def kill(self, node: str) -> None:
        """As if its power were cut."""
        (found,) = (n for n in self.cluster.worker_nodes if n.node_id == node)
        self.cluster.remove_node(found, allow_graceful=False)

    def rows(self, join: str) -> pa.Table:
        out = self.folder / f"{join}.feather"
        self.builder.ask(spine="spine", join=join, rows=str(out))
        self.explained = self.builder.outcome()["explain"]
        return feather.read_table(out)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    head = {"num_cpus": 1, "object_store_memory": 300 << 20, "include_dashboard": False, "no_monitor": True,
            "include_log_monitor": False, "_system_config": NOTICES_DEATH | IN_STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    with closing(market.Gate(folder)) as gate, started(cluster.address, folder / "lake") as builder:
        market.write_lake(folder / "lake", folder)
        builder.ask(layout="purchases")
        assert builder.outcome() == {"laid_out": [3]}
        yield Nodes(cluster, builder, gate, folder)
    cluster.shutdown()


@pytest.fixture(scope="module")
def alone(nodes: Nodes) -> pa.Table:
    """What one node gives."""
    rows = nodes.rows("auto")
    for line in ("spending: co-partitioned", "turnover: shuffle", "rate: broadcast"):
        assert line in nodes.explained
    return rows


@pytest.mark.parametrize("count", [2, 4])
def test_more_nodes_give_the_same_bits(count: int, nodes: Nodes, alone: pa.Table) -> None:
    nodes.grow(count)
    assert repr(nodes.rows("auto").to_pylist()) == repr(alone.to_pylist())


def test_an_online_store_of_one_machine_is_refused_where_there_are_several(
    nodes: Nodes, redis_url: str, tmp_path: Path
) -> None:
    nodes.grow(2)
    nodes.builder.ask(online=f"lmdb://{tmp_path}/online")
    refused = nodes.builder.outcome()
    assert refused["error"] == "ConfigError"
    assert "LMDB belongs to one machine and this Ray cluster has" in refused["text"]
    assert "use redis://" in refused["text"]
    nodes.builder.ask(online=redis_url + "?db=2")
    assert nodes.builder.outcome() == {"spaces": []}


@pytest.mark.parametrize("join", ["shuffle", "co-partitioned"])
def test_a_node_that_is_killed_changes_nothing_but_the_time(
    join: str, nodes: Nodes, alone: pa.Table, tmp_path: Path
) -> None:
    nodes.grow(3)
    nodes.gate.shut()
    nodes.builder.ask(spine="spine", join=join, path=str(tmp_path))
    held = [nodes.gate.arrival() for _ in market.LATE_USERS]
    assert nodes.builder.answer()["parts"] == 1
    nodes.kill(next(node for node in held if node != nodes.cluster.head_node.node_id))
    nodes.gate.open()
    assert nodes.builder.outcome() == {"written": alone.num_rows, "resumed": 0}
    assert [entry["operation"] for entry in DeltaTable(tmp_path).history()] == ["CREATE TABLE"]
    assert bits(DeltaTable(tmp_path).to_pyarrow_table()) == bits(alone)
