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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlray.training.checkpoint import RunDirectory
from mlray.training.launch import train
from mlray.training.run import Run
from tests.soak import rounds
from tests.training.made import EPOCHS, config, in_blocks, scores, table, weights

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


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it in two minutes"
        time.sleep(LOOK)
    return True


KILLS: dict[str, tuple[Callable[[Path, int], bool], Callable[[Path], int]]] = {
    "a worker within a step": (within_a_step, lambda run: rank(1, run)),
    "the first worker within a write": (within_a_write, lambda run: rank(0, run)),
    "the first worker after a write": (after_a_write, lambda run: rank(0, run)),
    "the controller": (within_a_step, controller),
}


@contextmanager
def killing(run: Path, kills: list[str], steps: list[int]) -> Iterator[list[str]]:
    """In a thread of its own: one kill after the other, each after its step and in workers that are new."""
    done: list[str] = []

    def kill_all() -> None:
        for number, (kill, after) in enumerate(zip(kills, steps, strict=True)):
            is_time, victim = KILLS[kill]
            wait_for(lambda n=number: len(starts(run)) > n)  # type: ignore[misc]
            wait_for(lambda t=is_time, a=after: t(run, a))  # type: ignore[misc]
            os.kill(victim(run), signal.SIGKILL)
            done.append(kill)

    killer = threading.Thread(target=kill_all)
    killer.start()
    yield done
    killer.join()


def assert_same(run: Run, undisturbed: Run) -> None:
    assert weights(Path(run.checkpoint).parent) == weights(Path(undisturbed.checkpoint).parent)
    assert scores(run.metrics) == scores(undisturbed.metrics)
    assert list(map(scores, run.history)) == list(map(scores, undisturbed.history))


@pytest.mark.parametrize("seed", range(rounds(1, 20)))
def test_kills_of_every_kind_and_other_blocks_change_no_bit(undisturbed: Run, storage: Path, seed: int) -> None:
    drawn = random.Random(seed)
    kills = drawn.sample(list(KILLS), len(KILLS))
    steps = sorted(drawn.sample(range(1, LAST_STEP - 100), len(kills)))
    backwards = DATA.take(np.arange(DATA.num_rows)[::-1])
    name = f"killed-{seed}"

    with killing(storage / name, kills, steps) as done:
        settings = config(storage, run=name, epochs=EPOCHS, patience=None, steps=7, max_failures=9)
        run = train(settings, in_blocks(backwards, blocks=11))

    assert done == kills
    went_on = [start["after_step"] for start in starts(storage / name)]
    assert len(went_on) == 1 + len(kills)
    assert all(step >= after - 7 for step, after in zip(went_on[1:], steps, strict=True))
    assert_same(run, undisturbed)


@contextmanager
def losing_a_node(run: Path, nodes: Any, count: int, after: int) -> Iterator[None]:
    """With `count` nodes of 3 CPUs beside the head's 4: that of a worker is lost after a step."""
    added = [nodes.add_node(num_cpus=3) for _ in range(count)]

    def lose() -> None:
        wait_for(lambda: within_a_step(run, after))
        pids = {int(pid) for pid in starts(run)[-1]["pids"]}
        [lost] = [node for node in added if pids & set(family(raylet_of(node)))]
        added.remove(lost)
        nodes.remove_node(lost, allow_graceful=False)

    loser = threading.Thread(target=lose)
    loser.start()
    yield
    loser.join()
    for node in added:
        nodes.remove_node(node)


def raylet_of(node: Any) -> int:
    [raylet] = node.all_processes["raylet"]
    return int(raylet.process.pid)


@pytest.mark.parametrize("seed", range(rounds(1, 20)))
def test_a_node_that_is_lost_changes_no_bit(undisturbed: Run, storage: Path, ray_nodes: Any, seed: int) -> None:
    #  head       |--- rank 0 ---|           |--- rank 0 ---|      4 CPUs: room for one worker of 2.5
    #  a node     |--- rank 1 ---X
    #  another                               |--- rank 1 ---|
    name, after = f"node-{seed}", random.Random(seed).randrange(20, LAST_STEP - 100)
    settings = config(storage, run=name, epochs=EPOCHS, patience=None, steps=7, cpus_per_worker=2.5, max_failures=9)

    with losing_a_node(storage / name, ray_nodes, count=2, after=after):
        run = train(settings, in_blocks(DATA))

    assert len(starts(storage / name)) >= 2
    assert_same(run, undisturbed)


def test_a_run_that_goes_on_with_fewer_workers_agrees_but_for_the_rounding(storage: Path, ray_nodes: Any) -> None:
    #  head       |--- rank 0 ---|    |--- rank 0, alone ---|
    #  a node     |--- rank 1 ---X
    plain = {"epochs": EPOCHS, "patience": None, "dropout": 0.0}
    whole = train(config(storage, run="whole", workers=0, **plain), in_blocks(DATA))
    elastic = {"workers": (1, 2), "cpus_per_worker": 2.5, "max_failures": 9, "steps": 7}

    with losing_a_node(storage / "fewer", ray_nodes, count=1, after=200):
        run = train(config(storage, run="fewer", **plain, **elastic), in_blocks(DATA))

    worlds = [len(start["pids"]) for start in starts(storage / "fewer")]
    assert (worlds[0], worlds[-1]) == (2, 1)
    for name in ("train_loss", "validation_auc", "test_auc", "test_log_loss"):
        assert run.metrics[name] == pytest.approx(whole.metrics[name], abs=1e-4)
