import io
import logging

import pytest
from rich.console import Console

from mlray.training.progress import shown
from mlray.training.status import Status

STATUS = Status(epoch=2, epochs=4, batch=5, batches=10, loss=0.4312, rows_per_second=12_300, seconds_left=92)
EPOCH = {"epoch": 1, "train_loss": 0.5, "validation_auc": 0.7, "rows_per_second": 12_000.0}


def test_a_terminal_shows_loss_speed_and_the_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with shown(console) as (on_epoch, on_status):
        on_status(STATUS)
        on_epoch(EPOCH)
    text = console.file.getvalue()
    assert "epoch 2/4, 50%, loss 0.4312, 12,300 rows/s, 0:01:32 left" in text
    assert "epoch 1: loss 0.5000, validation auc 0.7000, 12,000 rows/s" in text


def test_elsewhere_each_epoch_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with caplog.at_level(logging.INFO), shown(console) as (on_epoch, on_status):
        on_status(STATUS)
        on_epoch(EPOCH)
    assert caplog.messages == ["epoch 1: loss 0.5000, validation auc 0.7000, 12,000 rows/s"]
    assert console.file.getvalue() == ""
