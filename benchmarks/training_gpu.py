"""The training loop on one GPU: a model as of the flights and one ten times wider, in float32 and bfloat16: rows a
second beside a bare loop, the share of the time in which it waited for rows, and the memory of the GPU. Without a GPU
it says so.
"""

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
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
from mlray.training.network import MLP, Features
from mlray.training.preprocessing import Number, Preprocessing, Text
from mlray.training.task import Task
from mlray.training.trainer import Trainer

NUMBERS, CATEGORIES, VOCABULARY = 40, 6, 400
WIDTHS = {"flights": (128, 64), "ten times wider": (1280, 640)}
DTYPES = ("float32", "bfloat16")
EPOCHS = 3
START = datetime(2026, 1, 1, tzinfo=UTC)
PACKAGES = ("torch", "numpy", "ray", "deltalake")


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


def preprocessing() -> Preprocessing:
    return Preprocessing(
        numbers=tuple(Number(name=f"n{i}", mean=0.0, std=1.0, indicator=False) for i in range(NUMBERS)),
        texts=tuple(Text(name=f"t{i}", vocabulary=tuple(map(str, range(VOCABULARY)))) for i in range(CATEGORIES)),
    )


def measured(hidden: tuple[int, ...], dtype: str, parts: dict[str, Rows], device: str, batch: int) -> dict[str, float]:
    """Of the epochs after the first, which warms up. Each step reads the loss back: the GPU has done what is timed."""
    ends = {part: START + timedelta(days=day) for day, part in enumerate(PARTS, 1)}
    with TemporaryDirectory() as folder:
        settings = {"hidden": hidden, "dtype": dtype, "batch_size": batch, "shuffle_rows": 64 * batch, "prefetch": 32}
        config = TrainerConfig.from_json({"split": ends, "storage": folder, "run": "r", "epochs": EPOCHS, **settings})
        trainer = Trainer(
            config,
            preprocessing(),
            Signature(inputs={}, label="label"),
            {part: partial(blocks, rows) for part, rows in parts.items()},
            {part: len(rows) for part, rows in parts.items()},
            RunDirectory(Path(folder) / "r"),
            group=Group(device=torch.device(device)),
        )
        trainer.train()
        timed = trainer.progress.history[1:]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    seconds = sum(len(parts["train"]) / epoch["rows_per_second"] for epoch in timed)
    waited = sum(epoch["waited"] for epoch in timed)
    return {"speed": len(timed) * len(parts["train"]) / seconds, "stall": waited / seconds, "peak": peak}


def bare(hidden: tuple[int, ...], dtype: str, rows: Rows, device: str, batch: int) -> float:
    """Rows a second of a plain loop of torch that holds every row on the device, takes them as they lie and waits for
    it at the end of an epoch only: about what a loop that is fed cannot exceed.
    """
    numbers, codes, labels = (torch.from_numpy(v).to(device) for v in (rows.numbers, rows.codes, rows.labels))
    network = MLP(hidden=hidden).build(Features.of(preprocessing(), Task())).to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    half = dtype == "bfloat16"
    for _ in range(2):
        began = time.perf_counter()
        for start in range(0, len(rows), batch):
            mine = slice(start, start + batch)
            with torch.autocast(device, torch.bfloat16) if half else nullcontext():
                outputs = network(numbers[mine], codes[mine])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs.float(), labels[mine])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss.item()  # all of it is done
        seconds = time.perf_counter() - began
    return len(rows) / seconds


def run(options: Options, device: str, rows: int, batch: int) -> None:
    """Measures and writes up."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    report = Report("training_gpu", f"The training loop on {name}", command_line(), PACKAGES)
    parts = {part: made(rows if part == "train" else rows // 10, seed) for seed, part in enumerate(PARTS)}
    table = []
    for model, hidden in WIDTHS.items():
        for dtype in DTYPES:
            plain = bare(hidden, dtype, parts["train"], device, batch)
            if device == "cuda":
                gc.collect()  # what was held before would count as a part of this one's peak
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found = measured(hidden, dtype, parts, device, batch)
            peak, share = f"{found['peak'] / GIB:.3f}", f"{found['speed'] / plain:.2f}x"
            speeds = (f"{found['speed']:,.0f}", f"{plain:,.0f}", share)
            table.append((f"{model}, {dtype}", *speeds, f"{found['stall']:.0%}", peak))
    report.text(
        f"{rows:,} rows, {NUMBERS} numbers and {CATEGORIES} categories, batches of {batch:,}; the {EPOCHS - 1} epochs "
        f"after the first. CUDA {torch.version.cuda}. The bare loop holds all rows on the device and waits for it at "
        "the end of an epoch only. Memory is the peak, scoring in float64 included."
    )
    headers = ["model", "rows/s", "bare loop rows/s", "of the bare loop", "waited for rows", "GPU memory GiB"]
    report.table("One process, one device", headers, table)
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
