"""Sample order: a permutation, exact shares in every batch, no drift, and an end where one is wanted."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.datamodules.order import Place, SampleOrder, permute
from src.errors import UserError

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=6)


def with_weights(sizes: list[int], data: st.DataObject) -> list[float]:
    weight = st.one_of(st.integers(1, 9), st.floats(0.01, 10))
    return data.draw(st.lists(weight, min_size=len(sizes), max_size=len(sizes)))


def counts_of(order: SampleOrder, batch: int) -> list[int]:
    size = order.block_size
    return np.bincount(order.places(batch * size, (batch + 1) * size).sources, minlength=len(order.sizes)).tolist()


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@given(st.integers(1, 10**12), st.integers(0, 2**64 - 1), st.data())
@settings(max_examples=50)
def test_permuting_an_array_is_permuting_its_numbers(size: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    images = permute(np.array(indices), np.full(len(indices), size), np.full(len(indices), key, np.uint64))
    assert images.tolist() == [permute(index, size, key) for index in indices]


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    block=st.integers(1, 64),
    seed=st.integers(0, 10),
)
@settings(max_examples=50, deadline=None)
def test_shares_hold_in_every_batch_to_one_sample(weights: list[float], block: int, seed: int) -> None:
    order = SampleOrder([7] * len(weights), weights, block, seed)
    for batch in (0, 1, 2, 1023, 1024, 5000, 10**9):
        counts = counts_of(order, batch)
        for source, weight in enumerate(weights):
            assert abs(counts[source] - weight / sum(weights) * block) < 1 + 1e-6


def test_shares_do_not_drift_over_a_run() -> None:
    weights = [5.5, 1.5, 0.9]
    order = SampleOrder([10**6] * 3, weights, 16, 0)
    places = order.places(0, 3000 * 16)
    for source, weight in enumerate(weights):
        counts = np.cumsum(places.sources == source)[15::16]
        exact = np.arange(1, 3001) * 16 * weight / sum(weights)
        assert np.abs(counts - exact).max() < 1


def test_each_source_is_read_once_an_epoch_in_an_order_of_its_own() -> None:
    order = SampleOrder([50, 20], [3, 1], 8, 1)
    epochs: dict[tuple[int, int], list[int]] = {}
    for index in range(800):
        place = order.place(index)
        epochs.setdefault((place.source, place.epoch), []).append(place.item)
    for (source, epoch), items in epochs.items():
        assert len(set(items)) == len(items)
        if (source, epoch + 1) in epochs:
            assert sorted(items) == list(range(order.sizes[source]))
    assert epochs[0, 0] != epochs[0, 1]


@given(SIZES, st.data(), st.integers(1, 40), st.sampled_from(["repeat", "stop", "reweight"]))
@settings(max_examples=100, deadline=None)
def test_many_places_at_once_are_the_same_as_one_by_one(
    sizes: list[int], data: st.DataObject, block: int, when: str
) -> None:
    try:
        order = SampleOrder(sizes, with_weights(sizes, data), block, 5, when)
    except UserError:
        return
    end = order.total_samples or 10**10
    start = data.draw(st.integers(0, end))
    stop = min(end, start + 100)
    assert list(order.places(start, stop)) == [order.place(index) for index in range(start, stop)]


@given(SIZES, st.data(), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_reweighting_reads_every_row_of_every_source_exactly_once(
    sizes: list[int], data: st.DataObject, block: int
) -> None:
    weights = with_weights(sizes, data)
    if sum(sizes) < block:
        with pytest.raises(UserError, match="ends before its first global batch"):
            SampleOrder(sizes, weights, block, 0, "reweight")
        return
    order = SampleOrder(sizes, weights, block, 0, "reweight")
    assert order.total_samples == sum(sizes)
    read = Counter(order.places(0, sum(sizes)))
    assert read == {Place(source, item, 0): 1 for source, size in enumerate(sizes) for item in range(size)}


def test_reweighting_keeps_the_weights_of_those_that_are_left() -> None:
    order = SampleOrder([60, 1000, 1000], [6, 3, 1], 10, 0, "reweight")
    assert counts_of(order, 9) == [6, 3, 1]
    later = [counts_of(order, batch) for batch in range(10, 50)]
    assert np.sum(later, axis=0).tolist() == [0, 300, 100]
    assert {tuple(counts) for counts in later} == {(0, 7, 3), (0, 8, 2)}


def test_the_last_batch_of_a_source_takes_its_last_rows_and_is_full() -> None:
    order = SampleOrder([62, 1000, 1000], [6, 3, 1], 10, 0, "reweight")
    assert [counts_of(order, batch) for batch in (9, 10)] == [[6, 3, 1], [2, 6, 2]]


@given(SIZES, st.data(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_stopping_ends_before_the_first_batch_that_cannot_be_served(
    sizes: list[int], data: st.DataObject, block: int
) -> None:
    weights = with_weights(sizes, data)
    for_ever = SampleOrder(sizes, weights, block, 0)
    epochs = [bool(for_ever.places(batch * block, (batch + 1) * block).epochs.any()) for batch in range(20)]
    served = epochs.index(True) if True in epochs else 20
    if served == 0:
        with pytest.raises(UserError, match="ends before its first global batch"):
            SampleOrder(sizes, weights, block, 0, "stop")
        return
    order = SampleOrder(sizes, weights, block, 0, "stop")
    assert order.total_samples is not None and order.total_samples % block == 0
    assert order.total_samples // block == served or served == 20
    assert list(order.places(0, served * block)) == list(for_ever.places(0, served * block))


@given(SIZES, st.data(), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_amounts_are_read_exactly(sizes: list[int], data: st.DataObject, block: int) -> None:
    amounts = data.draw(st.lists(st.integers(1, 500), min_size=len(sizes), max_size=len(sizes)))
    if sum(amounts) < block:
        return
    order = SampleOrder(sizes, [1] * len(sizes), block, 0, amounts=amounts)
    assert order.total_samples == sum(amounts)
    places = order.places(0, sum(amounts))
    assert np.bincount(places.sources, minlength=len(sizes)).tolist() == amounts
    for source, (amount, size) in enumerate(zip(amounts, sizes, strict=True)):
        read = np.bincount(places.items[places.sources == source], minlength=size)
        assert {read.min(), read.max()} <= {amount // size, -(-amount // size)}
    for batch in range(min(20, sum(amounts) // block - 1)):
        for count, amount in zip(counts_of(order, batch), amounts, strict=True):
            assert abs(count - amount * block / sum(amounts)) < 1


def test_there_is_nothing_after_the_end() -> None:
    order = SampleOrder([10, 10], [1, 1], 4, 0, "reweight")
    assert order.whole_blocks == 5
    for index in (20, -1):
        with pytest.raises(IndexError, match="order of 20 samples"):
            order.place(index)
    with pytest.raises(IndexError):
        order.places(18, 21)


@pytest.mark.parametrize("when", ["repeat", "stop", "reweight"])
def test_ten_billion_samples_cost_no_memory_and_little_time(when: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    order = SampleOrder([10**10, 10**9, 3 * 10**9], [5.5, 1.5, 0.9], 1440, 3, when)
    places = order.places(5 * 10**9, 5 * 10**9 + 1440)
    assert time.process_time() - began < 0.5
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert list(places)[7] == order.place(5 * 10**9 + 7)


def test_places_of_batches_come_by_the_hundred_thousand_a_second() -> None:
    order = SampleOrder([10**10, 10**9, 10**9], [5.5, 1.5, 0.9], 1440, 3)
    began = time.process_time()
    for batch in range(50):
        order.places(batch * 1440, (batch + 1) * 1440)
    assert 50 * 1440 / (time.process_time() - began) > 100_000


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="at least one packed row"):
        SampleOrder([3, 0], [1, 1], 4, 0)
    with pytest.raises(UserError, match="weights must be positive"):
        SampleOrder([3, 3], [1, 0], 4, 0)
    with pytest.raises(UserError, match="not one of repeat, stop, reweight"):
        SampleOrder([3, 3], [1, 1], 4, 0, "restart")


@pytest.mark.parametrize(
    "other",
    [
        {"weights": [2, 3]},
        {"seed": 1},
        {"block_size": 5},
        {"sizes": [8, 9]},
        {"when_exhausted": "stop"},
        {"amounts": [7, 14]},
    ],
)
def test_the_fingerprint_is_that_of_the_order(other: dict[str, object]) -> None:
    settings = {"sizes": [8, 8], "weights": [1, 2], "block_size": 4, "seed": 0}
    order = SampleOrder(**settings)  # type: ignore[arg-type]
    same = SampleOrder(**{**settings, "weights": [0.5, 1.0]})  # type: ignore[arg-type]
    assert order.fingerprint() == same.fingerprint()
    assert order.fingerprint() != SampleOrder(**{**settings, **other}).fingerprint()  # type: ignore[arg-type]


@pytest.mark.parametrize("when_exhausted", ["repeat", "stop", "reweight"])
def test_samples_taken_of_each_source_are_those_of_their_places(when_exhausted: str) -> None:
    order = SampleOrder([7, 12, 5], [2, 3, 1], 4, 0, when_exhausted)
    for blocks in range((order.whole_blocks or 9) + 1):
        sources = order.places(0, blocks * 4).sources
        assert order.taken(blocks) == np.bincount(sources, minlength=3).tolist()
