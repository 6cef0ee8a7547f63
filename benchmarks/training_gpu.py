"""The training loop on one GPU: a model as of the flights and one ten times wider, in float32 and bfloat16: rows a
second, the share of the time in which the loop waited for rows, and the memory of the GPU. Without a GPU it says so.
"""

import gc
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.options import Options
from benchmarks.report import GIB, Report, command_line
from mlray.training.checkpoint import RunDirectory
from mlray.training.config import PARTS, TrainerConfig
from mlray.training.feed import Rows
from mlray.training.group import Group
from mlray.training.model import Signature
from mlray.training.preprocessing import Number, Preprocessing, Text
from mlray.training.trainer import Trainer

NUMBERS, CATEGORIES, VOCABULARY = 40, 6, 400
WIDTHS = {"flights": (128, 64), "ten times wider": (1280, 640)}
DTYPES = ("float32", "bfloat16")
START = datetime(2026, 1, 1, tzinfo=UTC)


def made(rows: int, seed: int) -> Rows:
    """Rows of the flights' shape: numbers, codes, and a label that depends on the first number."""
    random = np.random.default_rng(seed)
    numbers = random.standard_normal((rows, NUMBERS)).astype(np.float32)
    codes = random.integers(2, VOCABULARY + 2, (rows, CATEGORIES)).astype(np.int32)
    labels = (numbers[:, 0] + random.standard_normal(rows) > 0).astype(np.float32)
    return Rows(numbers, codes, labels, np.ones(rows, np.float32))


def blocks(rows: Rows) -> Iterator[Rows]:
    """As they come from the object store."""
    return (rows.take(slice(start, start + 131_072)) for start in range(0, len(rows), 131_072))


def measured(hidden: tuple[int, ...], dtype: str, parts: dict[str, Rows], device: str, batch: int) -> dict[str, float]:
    """The second epoch: the first one warms up. Every step reads the loss back, so the GPU has done what is timed."""
    ends = {part: START + timedelta(days=day) for day, part in enumerate(PARTS, 1)}
    preprocessing = Preprocessing(
        numbers=tuple(Number(name=f"n{i}", mean=0.0, std=1.0, indicator=False) for i in range(NUMBERS)),
        texts=tuple(Text(name=f"t{i}", vocabulary=tuple(map(str, range(VOCABULARY)))) for i in range(CATEGORIES)),
    )
    with TemporaryDirectory() as folder:
        settings = {"hidden": hidden, "dtype": dtype, "batch_size": batch, "shuffle_rows": 64 * batch, "prefetch": 4}
        config = TrainerConfig.from_json({"split": ends, "storage": folder, "run": "r", "epochs": 2, **settings})
        trainer = Trainer(
            config,
            preprocessing,
            Signature(inputs={}, label="label"),
            {part: partial(blocks, rows) for part, rows in parts.items()},
            {part: len(rows) for part, rows in parts.items()},
            RunDirectory(Path(folder) / "r"),
            group=Group(device=torch.device(device)),
        )
        trainer.train()
        last = trainer.progress.history[-1]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    seconds = len(parts["train"]) / last["rows_per_second"]
    return {"speed": last["rows_per_second"], "stall": last["waited"] / seconds, "peak": peak}


def run(options: Options, device: str, rows: int, batch: int) -> None:
    """Measures and writes up."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    report = Report("training_gpu", f"The training loop on {name}", command_line())
    parts = {part: made(rows if part == "train" else rows // 10, seed) for seed, part in enumerate(PARTS)}
    table = []
    for model, hidden in WIDTHS.items():
        for dtype in DTYPES:
            if device == "cuda":
                gc.collect()  # what the trainer before held would count as a part of this one's peak
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found = measured(hidden, dtype, parts, device, batch)
            peak = f"{found['peak'] / GIB:.3f}"
            table.append((f"{model}, {dtype}", f"{found['speed']:,.0f}", f"{found['stall']:.0%}", peak))
    report.text(
        f"{rows:,} rows, {NUMBERS} numbers and {CATEGORIES} categories, batches of {batch:,}; second epoch. torch "
        f"{torch.__version__}, CUDA {torch.version.cuda}. Memory is the peak, scoring in float64 included."
    )
    report.table("One process, one device", ["model", "rows/s", "waited for rows", "GPU memory GiB"], table)
    report.write(options.results)


def main() -> int:
    options = Options.parsed(__doc__ or "")
    if not torch.cuda.is_available():
        print("benchmarks.training_gpu: this machine has no GPU that torch can use, so nothing was measured")
        return 0
    run(options, "cuda", 4_000_000 if options.full else 400_000, 8192)
    return 0


if __name__ == "__main__":
    sys.exit(main())
