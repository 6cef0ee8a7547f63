"""G. Training input: rows a second from Delta through the point-in-time join into a loop of two workers, beside the
same loop over rows already in memory and a plain DistributedDataParallel loop over the written set's Parquet files.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from deltalake import DeltaTable

from benchmarks import session
from benchmarks.check import Verdict
from benchmarks.data import Purchases
from benchmarks.measure import Cost, measured
from benchmarks.options import Options
from benchmarks.report import Goal, Report, command_line, gib
from benchmarks.training_data import SOURCE, USER, Training
from benchmarks.training_peers import Job
from benchmarks.training_peers import run as run_peer
from mlray.training.checkpoint import RunDirectory
from mlray.training.launch import train
from mlray.training.workers import starts

FULL, SMALL = Training(Purchases(5_000_000, 1_000_000, 50_000)), Training(Purchases(200_000, 40_000, 2_000))
DELTA, MEMORY, DDP = "mlray, from Delta", "the same loop, rows in memory", "DDP, DataLoader in the loop"
PEERS = {MEMORY: ("memory", 0), DDP: ("ddp", 0), "DDP, DataLoader of a process": ("ddp", 1)}


def run(size: Training, options: Options, peers: Sequence[str] = tuple(PEERS), watch: bool = True) -> bool:
    """Measures, checks and writes up; whether every result is right."""
    report = Report("training", "G. Training: from Delta into two workers", command_line())
    lake = size.purchases.lake(options.data)
    report.text(f"{size.purchases.text} Ray started in {session.start():.1f} s.")
    report.text(session.laid_out(lake, SOURCE, USER))
    folder = emptied(options.data / "training")
    written = folder / "set"
    size.training_set(lake).write_delta(written)
    ours: list[dict[str, float]] = []
    theirs: dict[str, list[dict[str, float]]] = {who: [] for who in peers}
    for number in range(options.rounds):
        ours.append(trained(size, lake, folder / "runs", f"delta-{number}"))
        for who in peers:
            what, loaders = PEERS[who]
            config = size.config(folder / "runs", f"{what}-{loaders}-{number}")
            job = Job(what, str(written), str(folder / f"{what}-{loaders}-{number}"), config.to_json(), loaders)
            theirs[who].append(run_peer(job))
    goals = tell(report, ours, theirs)
    report.verdicts([same_weights(folder / "runs", options.rounds)])
    if watch:
        goals += memory(report, size, options)
    report.goals(goals)
    report.write(options.results)
    return report.right


def trained(size: Training, lake: Path, storage: Path, run: str) -> dict[str, float]:
    """The metrics of a training from the lake, the rows a second of its one epoch, the seconds of its first step."""
    made = train(size.config(storage, run), size.training_set(lake))
    [epoch] = made.history
    first = DeltaTable(storage / run / "steps").to_pyarrow_table(filters=[("step", "=", 1)])["seconds"][0].as_py()
    return {**made.metrics, "rows_per_second": epoch["rows_per_second"], "waited": epoch["waited"], "first": first}


def tell(report: Report, ours: list[dict[str, float]], theirs: dict[str, list[dict[str, float]]]) -> list[Goal]:
    """The medians; the goal, and how the others compare."""
    rows = ours[0]["rows_train"]
    loop = median(one["rows_per_second"] for one in ours)
    ready = median(one["seconds_data"] for one in ours)
    joined = median(rows / (one["seconds_data"] + rows / one["rows_per_second"]) for one in ours)
    names = ("seconds_start", "first", "waited", "seconds")
    start, first, waited, whole = (median(one[name] for one in ours) for name in names)
    speeds = {who: median(one["rows"] / one["seconds"] for one in found) for who, found in theirs.items()}
    report.table(
        "Rows a second in the first epoch",
        ["who", "rows", "rows/s of the loop", "rows/s, join included"],
        [
            (DELTA, f"{rows:,.0f}", f"{loop:,.0f}", f"{joined:,.0f}"),
            *((who, f"{theirs[who][0]['rows']:,.0f}", f"{speed:,.0f}", "") for who, speed in speeds.items()),
        ],
    )
    report.table(
        "Where the seconds before the first step go: rows joined, learned from and encoded; Ray Train's processes",
        ["until the rows are ready", "until the workers are", "the first step", "until it is done"],
        [(f"{ready:.1f}", f"{start:.1f}", f"{first:.2f}", f"{ready + start + first:.1f}")],
    )
    report.table(
        "Where the seconds of a training from Delta go",
        ["before the first step", "the epoch", "of these rank 0 waited for rows", "all, with scores and model"],
        [(f"{ready + start:.1f}", f"{rows / loop:.1f}", f"{waited:.2f}", f"{whole:.1f}")],
    )
    times = joined / speeds[MEMORY]
    goals = [Goal(f"{DELTA} against {MEMORY}, join included", ">= 0.9x", f"{times:.2f}x", times >= 0.9)]
    goals += [Goal(f"{DELTA} against {who}", "-", f"{loop / s:.2f}x ({joined / s:.2f}x)") for who, s in speeds.items()]
    return goals


def same_weights(runs: Path, rounds: int) -> Verdict:
    """Every training from Delta ended with the bits of the loop over rows in memory."""
    names = [f"{what}-{n}" for what in ("delta", "memory-0") for n in range(rounds)]
    found = [(runs / name / "model" / "model.safetensors").read_bytes() for name in names]
    different = sum(one != found[0] for one in found)
    return Verdict("weights from Delta = weights of rows in memory, to the bit", len(found), len(found), different)


def memory(report: Report, size: Training, options: Options) -> list[Goal]:
    """Peaks of memory for an eighth of the rows and for all: blocks lie in the object store, not in the processes."""
    sizes = (size.purchases.share(1, 8), size.purchases)
    costs = [watched(replace(size, purchases=part), options) for part in sizes]
    report.table(
        "Memory, by the rows of the training set; of a process without what it maps from the object store",
        ["spine rows", "driver GiB", "worker GiB", "largest process GiB", "all GiB, with the object store"],
        [
            (f"{part.spine:,}", gib(driver), gib(worker), gib(cost.own), gib(cost.total))
            for part, (driver, worker, cost) in zip(sizes, costs, strict=True)
        ],
    )
    (driver, worker, _), (driver8, worker8, _) = costs
    times = {"the driver": driver8 / driver, "a worker": worker8 / worker}
    return [Goal(f"memory of {who}, 8x the rows", "<= 1.25x", f"{x:.2f}x", x <= 1.25) for who, x in times.items()]


def watched(size: Training, options: Options) -> tuple[int, int, Cost]:
    """Peak bytes of the driver, which made the spine before, and of the largest worker of the loop."""
    lake, storage = size.purchases.lake(options.data), emptied(options.data / "training-memory")
    session.restart()
    ts = size.training_set(lake)
    cost = measured(lambda: train(size.config(storage, "watched"), ts), watch=True)
    [start] = starts(RunDirectory(storage / "watched"))
    return cost.each[os.getpid()], max(cost.each[pid] for pid in start["pids"]), cost


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> int:
    """Exit code 1 where a result is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options) else 1


if __name__ == "__main__":
    sys.exit(main())
