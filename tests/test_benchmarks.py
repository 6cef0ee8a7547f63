"""Each benchmark at a tiny size: it checks its results, says what it found, and can find that one is wrong."""

import math
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from benchmarks import as_of, check, data, ingest, online, scaling, taxi, training, training_gpu, windows
from benchmarks.data import Purchases
from benchmarks.measure import measured
from benchmarks.online_data import Online, Truth
from benchmarks.options import Options
from benchmarks.training_data import Training

TINY = Purchases(rows=4000, spine=400, users=200, files=3)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("bench")
    return Options(full=False, rounds=1, data=folder / "data", results=folder / "results")


def written(options: Options, theme: str) -> str:
    return next(options.results.glob(f"{theme}_[0-9]*.md")).read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_as_of_is_checked_and_written_up(options: Options) -> None:
    assert as_of.run(TINY, options)
    report = written(options, "as_of")
    assert "| mlray shuffle = DuckDB as-of | 400 | 4,400 | 0 |" in report
    assert "mlray shuffle against DuckDB, wall" in report


@pytest.mark.usefixtures("ray_cluster")
def test_windows_are_checked_and_written_up(options: Options) -> None:
    assert windows.run(TINY, options)
    report = written(options, "windows")
    assert "| mlray shuffle = DuckDB windows | 400 | 9,200 | 0 |" in report
    assert "| mlray shuffle = fractions, to the bit | 400 | 8,000 | 0 |" in report


@pytest.mark.usefixtures("ray_cluster")
def test_taxi_is_checked_and_written_up(options: Options) -> None:
    assert taxi.run((500,), options, per_day=300)
    assert "| mlray to pandas = DuckDB, 500 | 500 | 4,000 | 0 |" in written(options, "taxi")


@pytest.mark.usefixtures("ray_cluster")
def test_scaling_is_checked_and_written_up(options: Options) -> None:
    assert scaling.run(TINY, options, steps=(1, 2), clusters=(2,))
    assert "| 2 nodes | shuffle |" in written(options, "scaling")


@pytest.mark.usefixtures("ray_cluster")
def test_ingest_is_checked_and_written_up(options: Options) -> None:
    assert ingest.run(ingest.Size(batches=6, users=100, rows=20, callers=2), options)
    report = written(options, "ingest")
    assert "| ingest-actor, 2 callers: every user's count | 100 | 100 | 0 |" in report
    assert "by the actor, age p99 paced" in report


def test_online_reads_are_checked_and_written_up(options: Options) -> None:
    assert online.run(Online(keys=500, busy=500, loaded=300, events=20), options, seconds=0.01, readers=(1, 2))
    report = written(options, "online")
    assert "| D2, Redis, together = the tables, to the bit | 100 | 5,000 | 0 |" in report
    assert "| D1, LMDB, 100 keys, readers: 2 = the tables, to the bit | 200 | 10,000 | 0 |" in report
    assert "| D2, LMDB, 100 keys, under materialize = the tables, to the bit | 100 | 5,000 | 0 |" in report


def test_an_online_answer_that_is_off_in_its_last_bit_is_found(tmp_path: Path) -> None:
    truth = Truth(Online(keys=5, busy=5, loaded=1, events=20).lake(tmp_path), "D2", [3])
    right = truth.answers[3]
    wrong = right | {"v_std_30d": math.nextafter(right["v_std_30d"], 0)}
    assert [truth.verdict("", [{3: given}]).different for given in (right, wrong, {})] == [0, 1, 50]


def test_a_name_holds_the_same_rows_wherever_it_is_written(tmp_path: Path) -> None:
    one, other = (check.digest(TINY.lake(tmp_path / name) / "spine") for name in ("one", "other"))
    assert one == other


def test_a_wrong_cell_and_a_missing_row_are_found() -> None:
    right = pa.table({"id": [1, 2, 3], "a": [1.0, None, 3.0], "b": [0.1, 0.2, 0.3]})
    wrong = pa.table({"id": [1, 2], "a": [1.0, 2.0], "b": [0.1 + 1e-12, 0.2]})
    verdict = check.same_table("", "FROM left_one", "FROM right_one", ["a"], ["b"], left_one=wrong, right_one=right)
    assert (verdict.rows, verdict.different, verdict.right) == (3, 4, False)


def test_a_sum_that_is_off_in_its_last_bit_is_found(tmp_path: Path) -> None:
    lake = TINY.lake(tmp_path)
    added_up_by_sql = f"""
        SELECT s.id, s.user_id, s.timestamp, sum(v0) AS v0_sum_30d, count(v0) AS v0_count_30d,
            sum(v0) / count(v0) AS v0_mean_30d, max(v0) AS v0_max_30d
        FROM {data.relation(lake / "spine")} s LEFT JOIN {data.relation(lake / "purchases")} p
        ON s.user_id = p.user_id AND bought_at < timestamp AND bought_at >= timestamp - INTERVAL 30 DAY GROUP BY ALL"""
    verdict = check.exact_windows("", lake, added_up_by_sql, ["30d"])
    assert 0 < verdict.different < 800
    assert not verdict.right


def test_what_a_process_holds_and_takes_is_measured() -> None:
    def work() -> None:
        with duckdb.connect() as connection:
            connection.execute("CREATE TABLE numbers AS SELECT sum(range) OVER (ORDER BY range) FROM range(2000000)")

    cost = measured(work, watch=True)
    assert cost.cpu > 0
    assert cost.seconds > 0
    assert cost.total >= cost.process > 32 << 20


def test_the_benchmark_of_the_loop_on_a_gpu_runs_where_there_is_none(options: Options) -> None:
    training_gpu.run(options, "cpu", rows=2048, batch=512)
    report = written(options, "training_gpu")
    assert "| ten times wider, bfloat16 |" in report
    assert "2,048 rows, 40 numbers" in report


@pytest.mark.usefixtures("ray_cluster")
def test_training_ends_with_the_weights_of_rows_in_memory_and_is_written_up(options: Options) -> None:
    tiny = Training(Purchases(rows=4000, spine=1200, users=200, files=3), hidden=(16,), batch_size=64)
    assert training.run(tiny, options, peers=(training.MEMORY, training.DDP), watch=False)
    report = written(options, "training")
    assert "| weights from Delta = weights of rows in memory, to the bit | 2 | 2 | 0 |" in report
    assert "mlray, from Delta against DDP, DataLoader in the loop" in report
