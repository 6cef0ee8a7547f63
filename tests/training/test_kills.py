"""Workers, controllers and nodes that die by SIGKILL while they train: the run ends as one that nothing happened to.

    checkpoint   ......|......|......|......|      every 7 steps, written while the loop goes on
    killed at        X                             within a step
                        X                          while a checkpoint is being written
                          X                        as soon as it has its name, before anybody was told

`make soak` does it 20 times, at other steps each time.
"""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

from mlray.training import kinds
from mlray.training.checkpoint import RunDirectory
from mlray.training.launch import train
from mlray.training.run import Run
from mlray.training.xgboost_trainer import XGBoostTrainer
from tests.soak import rounds
from tests.training.made import EPOCHS, PLAIN, SPLIT, config, in_blocks, scores, table, weights

DATA = table(20_000)
LAST_STEP = EPOCHS * 47  # 12,000 training rows in batches of 256
LOOK = 0.0005


def starts(run: Path) -> list[dict[str, Any]]:
    """Of the workers so far: their process ids, and the step that they went on from."""
    path = run / "workers.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rank(number: int, run: Path) -> int:
    return int(starts(run)[-1]["pids"][number])


def controller(_: Path) -> int:
    """The process id of Ray Train's controller, of the cluster of this process."""
    [found] = (pid for pid in family(os.getpid()) if "TrainController" in read(f"/proc/{pid}/cmdline"))
    return found


def family(root: int) -> list[int]:
    """A process and its descendants."""
    parents = {int(p.name): read(p / "stat").rpartition(")")[2].split() for p in Path("/proc").glob("[0-9]*")}
    found = [root]
    for parent in found:
        found += [pid for pid, stat in parents.items() if stat and int(stat[1]) == parent]
    return found


def read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


def within_a_step(run: Path, after: int) -> bool:
    return RunDirectory(run).latest() >= after


def within_a_write(run: Path, after: int) -> bool:
    return within_a_step(run, after) and any((run / "checkpoints").glob(".0*"))


def after_a_write(run: Path, after: int) -> bool:
    """A checkpoint has appeared just now."""
    before = RunDirectory(run).latest()
    return before >= after and wait_for(lambda: RunDirectory(run).latest() > before)


def between_rounds(run: Path, after: int) -> bool:
    """So many rounds of trees are on the disk."""
    return any(int(path.name) >= after for path in (run / "rounds").glob("[0-9]*"))


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it in two minutes"
        time.sleep(LOOK)
    return True


def kill(victim: Callable[[Path], int]) -> Callable[[Path, Any], None]:
    return lambda run, _: os.kill(victim(run), signal.SIGKILL)


def lose_node(run: Path, nodes: Any) -> None:
    """A node with a worker; never the head."""
    pids = set(map(int, starts(run)[-1]["pids"]))
    lose(nodes, [next(node for node in nodes.worker_nodes if pids & set(family(raylet_of(node))))])


def lose(nodes: Any, lost: list[Any]) -> None:
    """All processes of these nodes at once, as if the power went. A worker by itself looks after its raylet once a
    second, and could train to the end meanwhile.
    """
    for node in lost:
        os.kill(raylet_of(node), signal.SIGSTOP)  # so that it starts nobody meanwhile
    for pid in [pid for node in lost for pid in family(raylet_of(node))]:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    for node in lost:
        nodes.remove_node(node, allow_graceful=False)


def raylet_of(node: Any) -> int:
    [raylet] = node.all_processes["raylet"]
    return int(raylet.process.pid)


def lose_nodes(_: Path, nodes: Any) -> None:
    """Every one but the head."""
    lose(nodes, list(nodes.worker_nodes))


# Each with when it is done, after a step or round, and how.
Kills: TypeAlias = dict[str, tuple[Callable[[Path, int], bool], Callable[[Path, Any], None]]]
KILLS: Kills = {
    "a worker within a step": (within_a_step, kill(lambda run: rank(1, run))),
    "the first worker within a write": (within_a_write, kill(lambda run: rank(0, run))),
    "the first worker after a write": (after_a_write, kill(lambda run: rank(0, run))),
    "the controller": (within_a_step, kill(controller)),
    "a node": (within_a_step, lose_node),
}
OF_ELASTIC_RUNS: Kills = {
    "all nodes": (within_a_step, lose_nodes),
    "all nodes between rounds": (between_rounds, lose_nodes),
}
OF_TREES: Kills = {
    "a worker between rounds": (between_rounds, kill(lambda run: int(starts(run)[-1]["pid"]))),
    "the controller between rounds": (between_rounds, kill(controller)),
}


@contextmanager
def killing(run: Path, nodes: Any, kills: list[str], steps: list[int]) -> Iterator[list[str]]:
    """In a thread of its own: one kill after the other, each after its step and in workers that are new."""
    done: list[str] = []

    def kill_all() -> None:
        for number, (name, after) in enumerate(zip(kills, steps, strict=True)):
            is_time, deed = (KILLS | OF_ELASTIC_RUNS | OF_TREES)[name]
            wait_for(lambda n=number: len(starts(run)) > n)  # type: ignore[misc]
            wait_for(lambda t=is_time, a=after: t(run, a))  # type: ignore[misc]
            deed(run, nodes)
            done.append(name)

    killer = threading.Thread(target=kill_all)
    killer.start()
    yield done
    killer.join()


@pytest.fixture
def nodes(ray_nodes: Any) -> Iterator[Any]:
    """The head with 4 CPUs and two nodes with 3: each has room for one worker of 2.5, and one of them can be spared."""
    added = [ray_nodes.add_node(num_cpus=3) for _ in range(2)]
    # By what this actor knows of an elastic run begins; by itself it looks for nodes every 20 s.
    coordinator = get_or_create_autoscaling_coordinator()
    ray.get(coordinator.get_reserved_resources.remote("nobody", recompute=True))
    yield ray_nodes
    for node in set(added) & ray_nodes.worker_nodes:
        ray_nodes.remove_node(node)


def assert_same(run: Run, undisturbed: Run) -> None:
    assert weights(Path(run.checkpoint).parent) == weights(Path(undisturbed.checkpoint).parent)
    assert scores(run.metrics) == scores(undisturbed.metrics)
    assert list(map(scores, run.history)) == list(map(scores, undisturbed.history))


def test_an_elastic_run_that_loses_its_nodes_goes_on_with_the_worker_that_is_left(
    undisturbed: Run, storage: Path, nodes: Any
) -> None:
    #  10 CPUs: up to three workers of 2.5 and one CPU for the data
    #    |1---2---X              all nodes but the head are lost, with workers and rows
    #             |3---...---10| 4 CPUs: one worker
    # Before the controllers are killed below: what one has asked Ray for is held for it for a minute or more, and an
    # elastic run begins with what is left.
    settings = config(storage, run="elastic", workers=(1, 8), cpus_per_worker=2.5, steps=7, max_failures=3, **PLAIN)
    with killing(storage / "elastic", nodes, ["all nodes"], [100]):
        run = train(settings, in_blocks(DATA, blocks=11))

    first, *_, last = (len(start["pids"]) for start in starts(storage / "elastic"))
    assert first > last == 1
    assert_near(run, undisturbed)


def test_an_elastic_run_of_trees_that_loses_its_nodes_does_so_too(storage: Path, nodes: Any) -> None:
    #  rounds  |1---5---10-..X             all nodes but the head are lost
    #                      |..---...---150  one worker
    small = {"rounds": 150, "checkpoint_rounds": 5, "patience": None, "workers": (1, 8), "cpus_per_worker": 2.5}
    settings = XGBoostTrainer.Config(split=SPLIT, storage=str(storage), run="shrunk", **small)  # type: ignore[arg-type]
    with killing(storage / "shrunk", nodes, ["all nodes between rounds"], [10]):
        run = kinds.train(settings, in_blocks(DATA, blocks=11))

    went_on = Counter(start["after_round"] for start in starts(storage / "shrunk"))
    first, *_, last = sorted(went_on)
    assert (first, went_on[first] > went_on[last], last >= 10) == (0, True, True)
    assert went_on[last] == 1
    assert run.metrics["rounds"] == len(run.history) == 150


@pytest.mark.parametrize("seed", range(rounds(1, 20)))
def test_kills_of_every_kind_and_other_blocks_change_no_bit(
    undisturbed: Run, storage: Path, nodes: Any, seed: int
) -> None:
    drawn = random.Random(seed)
    kills = drawn.sample(list(KILLS), len(KILLS))
    steps = sorted(drawn.sample(range(1, LAST_STEP - 100), len(kills)))
    backwards = DATA.take(np.arange(DATA.num_rows)[::-1])
    name = f"killed-{seed}"
    settings = config(storage, run=name, cpus_per_worker=2.5, steps=7, max_failures=9, **PLAIN)

    with killing(storage / name, nodes, kills, steps) as done:
        run = train(settings, in_blocks(backwards, blocks=11))

    assert done == kills
    went_on = [start["after_step"] for start in starts(storage / name)]
    assert len(went_on) == 1 + len(kills)
    assert all(step >= after - 7 for step, after in zip(went_on[1:], steps, strict=True))
    assert_same(run, undisturbed)


def test_one_worker_and_two_agree_but_for_the_rounding(undisturbed: Run, storage: Path) -> None:
    assert_near(train(config(storage, run="alone", workers=0, **PLAIN), in_blocks(DATA)), undisturbed)


def assert_near(run: Run, undisturbed: Run, within: float = 1e-4) -> None:
    """Of another number of workers, or another device: not the same bits, but metrics as near as that."""
    assert weights(Path(run.checkpoint).parent) != weights(Path(undisturbed.checkpoint).parent)
    for name in ("train_loss", "validation_auc", "test_auc", "test_log_loss"):
        assert run.metrics[name] == pytest.approx(undisturbed.metrics[name], abs=within)
