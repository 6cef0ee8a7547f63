"""The report: one file that needs nothing else, says what the gates said, and is the same for the same run."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from mlray.gates import evaluation, plot
from mlray.gates.curves import by_decile, confusion, roc
from mlray.gates.report import Report, figure
from mlray.gates.result import Result, told, write_evidence
from mlray.gates.scored import Scored
from mlray.gates.settings import Evaluation
from mlray.training.run import Run
from mlray.training.task import Task

LABELS = np.tile([0.0, 1.0, 0.0, 1.0], 100)
SCORES = np.tile([0.1, 0.4, 0.6, 0.9], 100)


AMOUNT = {"amount": {"at": 1.0, "until": float("nan"), "after": 0.5}}


def page(features: dict[str, Any] = AMOUNT, **more: Result) -> str:
    columns = pa.table({"carrier": np.tile(["AA", "<b>", "AA", "UA"], 100)})
    scored = Scored(labels=LABELS, predictions=SCORES, columns=columns)
    run = Run(
        id="shop-1", metrics={"test_auc": 0.75, "rows_test": 400.0, "seconds": 3.0, "seconds_start": 1.0},
        checkpoint="", service="shop", service_hash="ab", service_definition="",
        sources={"buys": 4}, fingerprint="cd", spine="400 rows",
        features=("amount",), label="bought", config={}, provenance={},
        history=({"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.4}),
    )
    results = {
        "leakage": Result(
            passed=False, value=1.0, threshold=0.99, problems=("amount alone tells <the> label",),
            details={"rows": 400, "features": features},
        ),
        "evaluation": evaluation.evaluate(scored, Task(), Evaluation(slices=("carrier",), min_rows=50, samples=10)),
    } | more
    return Report(run=run, task=Task(), results=results, scored=scored).html()


def test_it_is_one_well_formed_file_without_scripts_and_fetches_nothing() -> None:
    html = page()
    ElementTree.fromstring(html.replace("<!doctype html>", "").replace('<meta charset="utf-8">', "").replace(
        '<meta name="viewport" content="width=device-width, initial-scale=1">', ""))
    assert not re.search(r"<script|<link|https?://|src=|@import|url\(", html)


def test_it_says_what_the_gates_said_and_escapes_what_came_from_data() -> None:
    html = page()
    assert "amount alone tells &lt;the&gt; label" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count('<tr><th scope="row"><a href="#') == 2
    assert '<td>auc, at least</td>\n<td class="said">none</td>' in html


def test_metrics_stand_by_part_and_long_tables_are_folded_the_largest_first() -> None:
    features = {f"f{i:02}": {"at": 0.5 + i / 100, "until": 0.5, "after": None} for i in range(12)}
    html = page(features)
    assert re.search(r'<th scope="row">auc</th><td class="n"></td><td class="n"></td><td class="n">0.7500</td>', html)
    assert re.findall(r'<th scope="row">(f\d\d)</th>', html) == [f"f{i:02}" for i in reversed(range(12))]
    assert "<summary>2 more features</summary>" in html


def test_an_explanation_that_failed_is_said_and_draws_nothing() -> None:
    details = {"method": "none", "unit": "", "base": [], "rows": 9, "importance": {}, "slices": []}
    html = page(explanation=Result(passed=False, problems=("it cannot be explained",), details=details))
    assert html.count("it cannot be explained") == 2
    assert "What the model goes by" not in html


def test_every_picture_has_a_name_for_who_does_not_see_it() -> None:
    pictures = re.findall(r"<svg[^>]*>", page())
    assert len(pictures) >= 3
    assert all('role="img" aria-label=' in one or 'aria-hidden="true"' in one for one in pictures)


def test_the_same_run_gives_the_same_bytes_and_nothing_of_the_clock() -> None:
    assert page() == page()
    assert "seconds" not in page()


def test_a_roc_curve_ends_in_both_corners_and_goes_through_its_steps() -> None:
    #  scores 0.1 0.4 0.6 0.9 of labels 0 1 0 1: from the highest on, up, right, up, right
    assert roc(LABELS, SCORES) == [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
    assert roc(np.ones(4), np.arange(4.0)) == []


def test_calibration_sets_mean_scores_beside_shares() -> None:
    expected = [(0.1, 0.0), (0.4, 1.0), (0.6, 0.0), (0.9, 1.0)]
    assert by_decile(LABELS, SCORES) == [pytest.approx(point) for point in expected]


def test_a_confusion_matrix_counts_by_label_and_decision() -> None:
    assert confusion(LABELS, (SCORES >= 0.5).astype(float), 2).tolist() == [[100, 100], [100, 100]]


def test_axes_have_round_marks_and_nothing_to_draw_is_said() -> None:
    drawn = plot.lines("Loss", {"train": [(1, 0.61), (2, 0.52)]}, "epoch", "loss")
    assert all(f">{mark}</text>" in drawn for mark in ("0.52", "0.54", "0.56", "0.62"))
    assert plot.lines("Loss", {"train": [(1, float("nan"))]}, "epoch", "loss") == "<p>Loss: nothing to draw.</p>"


def test_figures_are_for_people() -> None:
    assert [figure(value) for value in (0.123456, 0.5, 0.0, 1e-6, 12345, 12345.0, None, float("nan"), True)] == [
        "0.1235", "0.5000", "0", "1e-06", "12,345", "12,345", "-", "-", "True",
    ]


def test_what_each_gate_found_is_told_in_a_line_with_why_it_failed(tmp_path: Path) -> None:
    results = {
        "leakage": Result(passed=True, value=0.75, threshold=0.99),
        "bias": Result(passed=False, value=0.3, threshold=0.1, problems=("JFK is favoured", "LGA is small")),
    }
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    assert told(checkpoint) == {}
    write_evidence(checkpoint, results, {"test": 4}, "flights")
    assert told(checkpoint) == {
        "leakage": "passed with 0.75, asked for 0.99",
        "bias": "failed with 0.3, asked for 0.1: JFK is favoured (and 1 more in report.html)",
    }
