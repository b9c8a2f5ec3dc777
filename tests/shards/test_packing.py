"""Best-fit-decreasing packing: complete, within capacity, as full as the one-by-one algorithm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.shards.packing import pack


def one_by_one(lengths: list[int], capacity: int) -> int:
    """Rows that textbook best-fit-decreasing needs."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in free if room >= length]
        if fitting:
            free.remove(min(fitting))
            free.append(min(fitting) - length)
        else:
            free.append(capacity - length)
    return len(free)


@given(st.lists(st.integers(1, 40), max_size=300), st.integers(0, 5))
def test_every_segment_is_in_one_row_and_rows_are_as_few_as_one_by_one(lengths: list[int], seed: int) -> None:
    rows = pack(np.array(lengths, np.int32), 40, seed)
    assert sorted(rows.segments.tolist()) == list(range(len(lengths)))
    for index in range(len(rows)):
        assert 0 < sum(lengths[i] for i in rows.row(index)) <= 40
    assert len(rows) == one_by_one(lengths, 40)


def test_a_million_log_normal_segments_are_packed_99_percent_full() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 0.7, 1_000_000), 16, 1024).astype(np.int32)
    rows = pack(lengths, 1024)
    assert lengths.sum() / (len(rows) * 1024) > 0.99


def test_another_seed_brings_other_segments_together() -> None:
    lengths = np.full(100, 10, np.int32)
    assert pack(lengths, 40, 0).segments.tolist() != pack(lengths, 40, 1).segments.tolist()
    assert pack(lengths, 40, 0).segments.tolist() == pack(lengths, 40, 0).segments.tolist()


@pytest.mark.parametrize("lengths", [[0, 5], [5, 41]])
def test_empty_and_oversized_segments_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="1 to max_length"):
        pack(np.array(lengths), 40)
