"""What a machine without a GPU cannot show. CI has none; docs/design/training.md says where these last ran."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mlray.training.checkpoint import RunDirectory
from mlray.training.group import Group
from mlray.training.launch import train
from mlray.training.run import Run
from tests.training.made import EPOCHS, PLAIN, config, in_blocks, table, trainer
from tests.training.test_kills import LAST_STEP, assert_near, killing, starts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")

DATA = table(20_000)


@pytest.fixture(scope="module", autouse=True)
def gpu(ray_nodes: Any) -> Iterator[None]:
    """Beside the head, which knows of none."""
    node = ray_nodes.add_node(num_cpus=3, num_gpus=1)
    yield
    ray_nodes.remove_node(node)


def test_a_run_takes_the_gpu_where_each_worker_has_one_and_ends_near_the_cpu(undisturbed: Run, storage: Path) -> None:
    run = train(config(storage, run="gpu", workers=1, **PLAIN), in_blocks(DATA))

    assert [start["device"] for start in starts(storage / "gpu")] == ["cuda:0"]
    assert_near(run, undisturbed)


def test_a_run_of_more_workers_than_gpus_stays_on_the_cpu(storage: Path) -> None:
    train(config(storage, run="two-cpus", epochs=1), in_blocks(DATA))
    assert [start["device"] for start in starts(storage / "two-cpus")] == ["cpu"]


def test_a_step_draws_the_same_again_from_its_seed() -> None:
    group = Group(device=torch.device("cuda", 0))

    def drawn(seed: int) -> list[float]:
        group.draw_from(seed)
        return [torch.rand(1, device=device).item() for device in ("cpu", "cuda")]

    first, other, again = drawn(5), drawn(6), drawn(5)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_run_whose_worker_and_controller_are_killed_ends_near_one_that_nothing_happened_to(
    undisturbed: Run, storage: Path
) -> None:
    kills = ["the first worker after a write", "the controller", "the first worker within a write"]
    settings = config(storage, run="gpu-killed", workers=1, steps=7, max_failures=9, **PLAIN)
    with killing(storage / "gpu-killed", None, kills, [50, 150, 250]) as done:
        run = train(settings, in_blocks(DATA))

    assert done == kills
    assert {start["device"] for start in starts(storage / "gpu-killed")} == {"cuda:0"}
    assert_near(run, undisturbed)


def test_bfloat16_and_compilation_learn_the_same(undisturbed: Run, storage: Path) -> None:
    settings = {"dtype": "bfloat16", "compile": True, "workers": 1, **PLAIN}
    run = train(config(storage, run="gpu-half", **settings), in_blocks(DATA))
    assert_near(run, undisturbed, within=0.01)


def one_of_two(rank: int, folder: Path) -> None:
    """NCCL refuses two ranks on one GPU of one host, so each says that it is another."""
    os.environ |= {"NCCL_HOSTID": f"host-{rank}", "NCCL_SOCKET_IFNAME": "lo"}
    dist.init_process_group("nccl", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    trainer(config(folder, run="two", **PLAIN), DATA, group=Group(rank, 2, torch.device("cuda", 0))).train()
    dist.destroy_process_group()


def test_two_workers_over_nccl_agree_with_one_on_the_cpu_but_for_the_rounding(tmp_path: Path) -> None:
    mp.spawn(one_of_two, args=(tmp_path,), nprocs=2)
    alone = trainer(config(tmp_path, run="one", **PLAIN), DATA).train()

    [*_, last] = RunDirectory(tmp_path / "two").history()
    assert last["step"] == LAST_STEP
    for name in ("train_loss", "validation_auc"):
        assert last[name] == pytest.approx(RunDirectory(tmp_path / "one").history()[-1][name], abs=1e-4)
    assert alone["epochs"] == EPOCHS
