"""What somebody who waits for a training sees: a bar on a terminal, otherwise a line in the log for each epoch."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mlray.training.status import Status

logger = logging.getLogger(__name__)

OnEpoch = Callable[[Mapping[str, float]], None]
OnStatus = Callable[[Status], None]


def epoch_text(metrics: Mapping[str, float]) -> str:
    """One epoch in one line: its loss, the metrics of its validation part, its speed; of a round of trees the loss."""
    validation = {k.removeprefix("validation_"): v for k, v in metrics.items() if k.startswith("validation_")}
    found = ", ".join(f"{name} {value:.4f}" for name, value in validation.items())
    if "round" in metrics:
        return f"round {metrics['round']:.0f}: validation {found}"
    speed = f"{metrics['rows_per_second']:,.0f} rows/s"
    return f"epoch {metrics['epoch']:.0f}: loss {metrics['train_loss']:.4f}, validation {found}, {speed}"


def log_epoch(metrics: Mapping[str, float]) -> None:
    logger.info("%s", epoch_text(metrics))


@contextmanager
def shown(console: Console | None) -> Iterator[tuple[OnEpoch, OnStatus]]:
    """A bar with loss, rows a second and the time left, and a line above it for each epoch; a line in the log where the
    console is no terminal, or None.
    """
    if console is None or not console.is_terminal:
        yield log_epoch, lambda _: None
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("preparing the rows, starting the workers", total=1.0)
        yield (
            lambda metrics: progress.console.print(epoch_text(metrics), highlight=False),
            lambda status: progress.update(task, completed=status.share, description=str(status)),
        )
