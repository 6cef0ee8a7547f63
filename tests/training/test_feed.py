from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest

from mlray.training.feed import Rows, ahead, batches, content_hash, share, windows
from mlray.training.preparation import Encoding, assign_parts, order, scatter, scatter_all
from mlray.training.task import Task
from tests.training.made import SPLIT, columns, parts, table


def numbered(count: int, block: int) -> list[Rows]:
    """Rows whose label is their place, in blocks."""
    places = np.arange(count, dtype=np.float32)
    return [
        Rows(p[:, np.newaxis], np.zeros((len(p), 0), np.int32), p, np.ones_like(p))
        for p in (places[start : start + block] for start in range(0, count, block))
    ]


def epoch(
    blocks: list[Rows], *, rank: int = 0, world: int = 1, seed: tuple[int, int] = (0, 1), start: int = 0
) -> list[list[float]]:
    def stream() -> Iterator[Rows]:
        return iter(blocks)

    drawn = batches(stream, size=4, shuffle_rows=8, seed=seed, rank=rank, world=world, start=start)
    return [rows.labels.tolist() for rows in drawn]


@pytest.mark.parametrize("block", [1, 3, 8, 100])
def test_windows_do_not_depend_on_blocks(block: int) -> None:
    found = [rows.labels.tolist() for rows in windows(lambda: iter(numbered(20, block)), 8)]
    assert found == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


@pytest.mark.parametrize("block", [1, 3, 8, 100])
def test_an_epoch_meets_every_row_once_whatever_the_blocks(block: int) -> None:
    assert epoch(numbered(21, block)) == epoch(numbered(21, 21))
    assert sorted(chain(*epoch(numbered(21, block)))) == list(range(21))


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_share_each_global_batch(world: int) -> None:
    whole = epoch(numbered(21, 5))
    ranks = [epoch(numbered(21, 5), rank=rank, world=world) for rank in range(world)]

    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(chain(*(rank[number] for rank in ranks)))


@pytest.mark.parametrize("start", range(7))
def test_an_epoch_goes_on_from_any_batch(start: int) -> None:
    assert epoch(numbered(21, 5), start=start) == epoch(numbered(21, 5))[start:]


def test_what_is_made_ahead_is_the_same_and_raises_the_same() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken")

    assert list(ahead(iter(range(9)), 2)) == list(range(9))
    with pytest.raises(ValueError, match="broken"):
        list(ahead(broken(), 2))


def test_another_epoch_or_seed_is_another_order() -> None:
    orders = [epoch(numbered(21, 5), seed=seed) for seed in ((0, 1), (0, 2), (1, 1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("block", [1, 4, 7])
def test_shares_are_each_worlds_th_row(block: int) -> None:
    for rank in range(3):
        shared = share(lambda: iter(numbered(20, block)), rank=rank, world=3)
        assert [place for rows in shared for place in rows.labels] == list(range(rank, 20, 3))


def test_the_order_of_rows_is_that_of_their_content() -> None:
    #  one block                     or five, backwards, in two buckets: the same rows in the same order
    data = table(500)
    read = columns(data)
    preprocessing, expected = parts(data, read)

    pieces = [data.slice(start, 100) for start in (400, 300, 200, 100, 0)]
    blocks = [assign_parts(piece, read, SPLIT) for piece in pieces]
    scattered = [scatter(block, Encoding(preprocessing, read, Task()), [2, 1, 1])[1] for block in blocks]
    train = Rows.concat([order(*(shards[bucket] for shards in scattered)) for bucket in (0, 1)])

    for name in ("numbers", "codes", "labels"):
        np.testing.assert_array_equal(getattr(train, name), getattr(expected["train"], name))


def test_blocks_that_one_task_takes_together_are_in_the_same_order() -> None:
    data = table(500)
    read = columns(data)
    preprocessing, expected = parts(data, read)
    blocks = [assign_parts(data.slice(start, 100), read, SPLIT) for start in range(0, 500, 100)]
    encoding = Encoding(preprocessing, read, Task())

    unseen, first = scatter_all(blocks[:3], encoding, [1, 1, 1])
    _, second = scatter_all(blocks[3:], encoding, [1, 1, 1])

    assert [part.total() for part in unseen] == [0, 0, 0]
    for name in ("numbers", "codes", "labels"):
        np.testing.assert_array_equal(
            getattr(order(first[0], second[0]), name), getattr(expected["train"], name)
        )


def test_equal_rows_have_equal_hashes_and_a_change_anywhere_another() -> None:
    labels, weights = np.zeros(6, np.float32), np.ones(6, np.float32)
    rows = Rows(np.zeros((6, 2), np.float32), np.zeros((6, 1), np.int32), labels, weights)
    rows.numbers[1, 1], rows.codes[2, 0], rows.labels[3] = 1.0, 1, 1.0
    rows.weights[5] = 2.0
    keys = content_hash(rows, np.array([7] * 6))

    assert keys[0] == keys[4]
    assert len(set(keys.tolist())) == 5
    assert content_hash(rows, np.array([8] * 6))[0] != keys[0]
