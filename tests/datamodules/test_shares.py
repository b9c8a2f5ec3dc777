"""Counts of a block: whole shares, right sums, no drift, at any distance and for any number of sources."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.datamodules.shares import Shares, whole_weights

WEIGHTS = st.lists(st.one_of(st.integers(1, 9), st.integers(1, 10**12)), min_size=1, max_size=20)
BLOCK_SIZES = st.one_of(st.just(1), st.integers(1, 5000))
STARTS = st.one_of(st.integers(0, 3000), st.integers(0, 10**13))


def exact(weights: list[int], block_size: int) -> list[Fraction]:
    return [Fraction(block_size * weight, sum(weights)) for weight in weights]


@given(WEIGHTS, BLOCK_SIZES, STARTS)
@settings(max_examples=150, deadline=None)
def test_every_block_holds_the_floor_or_the_ceiling_of_each_share(
    weights: list[int], block_size: int, start: int
) -> None:
    taken = Shares(weights, block_size).after_each(np.arange(start, start + 40))
    counts = np.diff(taken, axis=0)
    shares = exact(weights, block_size)
    assert (counts.sum(axis=1) == block_size).all()
    assert (counts >= [share.__floor__() for share in shares]).all()
    assert (counts <= [share.__ceil__() for share in shares]).all()


@given(WEIGHTS, BLOCK_SIZES, STARTS)
@settings(max_examples=150, deadline=None)
def test_counts_never_drift_from_the_exact_shares(weights: list[int], block_size: int, blocks: int) -> None:
    shares = Shares(weights, block_size)
    wanted = [blocks * share for share in exact(weights, block_size)]
    taken = shares.after(blocks)
    assert sum(taken) == blocks * block_size
    assert max(abs(count - share) for count, share in zip(taken, wanted, strict=True)) <= shares.drift_bound + 1e-9
    if len(weights) <= 4:
        assert shares.drift_bound < 1


@given(WEIGHTS, BLOCK_SIZES, STARTS)
@settings(max_examples=50, deadline=None)
def test_many_blocks_at_once_are_the_same_as_one_by_one(weights: list[int], block_size: int, start: int) -> None:
    shares = Shares(weights, block_size)
    at_once = shares.after_each(np.arange(start, start + 5))
    assert at_once.tolist() == [shares.after(blocks) for blocks in range(start, start + 5)]


def test_ten_million_global_batches_of_knowlm_hold_its_proportions() -> None:
    shares = Shares(whole_weights([5.5, 1.5, 0.9]), 1440)
    assert shares.after(10**7) == [round(10**7 * 1440 * weight / 79) for weight in (55, 15, 9)]
    assert shares.after(79) == [1440 * 55, 1440 * 15, 1440 * 9]


def test_a_source_of_one_in_a_billion_comes_once_in_a_billion() -> None:
    shares = Shares([10**9 - 1, 1], 1)
    assert shares.after(10**9) == [10**9 - 1, 1]
    assert shares.after(10**12)[1] == 1000


def test_whole_shares_are_the_same_in_every_block() -> None:
    counts = np.diff(Shares([1000, 300, 140], 1440).after_each(np.arange(2000)), axis=0)
    assert (counts == [1000, 300, 140]).all()


def test_sources_without_a_share_get_nothing() -> None:
    assert Shares([3, 0, 2], 4).after(1000) == [2400, 0, 1600]


def test_decimal_weights_mean_what_they_say() -> None:
    assert whole_weights([5.5, 1.5, 0.9]) == [55, 15, 9]
    assert whole_weights([0.1, 0.2, 0.7]) == [1, 2, 7]
    assert whole_weights([Fraction(1, 3), 1]) == [1, 3]


@given(WEIGHTS, BLOCK_SIZES, st.data())
@settings(max_examples=80, deadline=None)
def test_blocks_within_limits_are_the_most_that_fit(weights: list[int], block_size: int, data: st.DataObject) -> None:
    limits = data.draw(st.lists(st.integers(0, 10**6), min_size=len(weights), max_size=len(weights)))
    shares = Shares(weights, block_size)
    blocks = shares.blocks_within(limits)
    assert all(taken <= limit for taken, limit in zip(shares.after(blocks), limits, strict=True))
    assert any(taken > limit for taken, limit in zip(shares.after(blocks + 1), limits, strict=True))


@pytest.mark.parametrize("count", [9, 50])
def test_many_equal_sources_stay_within_one_and_a_half_samples(count: int) -> None:
    assert Shares([1] * count, 16).drift_bound <= 1.5
