"""G. Training input: rows a second from Delta through the point-in-time join into a loop of two workers, beside the
same loop over rows already in memory and a plain DistributedDataParallel loop over the written set's Parquet files.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import session
from benchmarks.check import Verdict
from benchmarks.data import Purchases
from benchmarks.measure import Cost, measured
from benchmarks.options import Options
from benchmarks.report import Goal, Report, command_line, gib
from benchmarks.training_data import SOURCE, USER, Training
from benchmarks.training_peers import Job
from benchmarks.training_peers import run as run_peer
from mlray.training.launch import train

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
    tell(report, ours, theirs)
    report.verdicts([same_weights(folder / "runs", options.rounds)])
    if watch:
        memory(report, size, options)
    report.write(options.results)
    return report.right


def trained(size: Training, lake: Path, storage: Path, run: str) -> dict[str, float]:
    """The metrics of a training from the lake, and the rows a second of its one epoch."""
    made = train(size.config(storage, run), size.training_set(lake))
    [epoch] = made.history
    return {**made.metrics, "rows_per_second": epoch["rows_per_second"], "waited": epoch["waited"]}


def tell(report: Report, ours: list[dict[str, float]], theirs: dict[str, list[dict[str, float]]]) -> None:
    """The medians, and the goal."""
    rows = ours[0]["rows_train"]
    loop = median(one["rows_per_second"] for one in ours)
    ready = median(one["seconds_data"] for one in ours)
    joined = median(rows / (one["seconds_data"] + rows / one["rows_per_second"]) for one in ours)
    start, waited, whole = (median(one[name] for one in ours) for name in ("seconds_start", "waited", "seconds"))
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
        "Where the seconds of a training from Delta go",
        ["until the rows are ready", "until the workers are", "of the epoch", "of these rank 0 waited for rows", "all"],
        [(f"{ready:.1f}", f"{start:.1f}", f"{rows / loop:.1f}", f"{waited:.2f}", f"{whole:.1f}")],
    )
    times = joined / speeds[MEMORY]
    goals = [Goal(f"{DELTA} against {MEMORY}, join included", ">= 0.9x", f"{times:.2f}x", times >= 0.9)]
    goals += [Goal(f"{DELTA} against {who}", "-", f"{loop / s:.2f}x ({joined / s:.2f}x)") for who, s in speeds.items()]
    report.goals(goals)


def same_weights(runs: Path, rounds: int) -> Verdict:
    """Every training from Delta ended with the bits of the loop over rows in memory."""
    names = [f"{what}-{n}" for what in ("delta", "memory-0") for n in range(rounds)]
    found = [(runs / name / "model" / "model.safetensors").read_bytes() for name in names]
    different = sum(one != found[0] for one in found)
    return Verdict("weights from Delta = weights of rows in memory, to the bit", len(found), len(found), different)


def memory(report: Report, size: Training, options: Options) -> None:
    """Peaks of memory for a quarter of the rows and for all: blocks lie in the object store, not in the workers."""
    sizes = (size.purchases.share(1, 4), size.purchases)
    costs = [(part, watched(replace(size, purchases=part), options)) for part in sizes]
    report.table(
        "Memory, by the rows of the training set",
        ["spine rows", "largest process GiB", "all GiB, with the object store"],
        [(f"{part.spine:,}", gib(cost.process), gib(cost.total)) for part, cost in costs],
    )


def watched(size: Training, options: Options) -> Cost:
    lake = size.purchases.lake(options.data)
    storage = emptied(options.data / "training-memory")
    session.restart()
    return measured(lambda: train(size.config(storage, "watched"), size.training_set(lake)), watch=True)


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
