"""Sample order: a permutation, exact shares in every batch, no drift."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.datamodules.order import SampleOrder, permute
from src.errors import UserError


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    block=st.integers(1, 64),
    seed=st.integers(0, 10),
)
@settings(max_examples=50)
def test_shares_hold_in_every_batch_to_one_sample(weights: list[float], block: int, seed: int) -> None:
    order = SampleOrder([7] * len(weights), weights, block, seed)
    for batch in (0, 1, 2, 1023, 1024, 5000):
        counts = Counter(order.place(index).source for index in range(batch * block, (batch + 1) * block))
        for source, weight in enumerate(weights):
            assert abs(counts[source] - weight / sum(weights) * block) < 1 + 1e-6


def test_shares_do_not_drift_over_a_run() -> None:
    weights = [5.5, 1.5, 0.9]
    order = SampleOrder([10**6] * 3, weights, 16, 0)
    counts = Counter(order.place(index).source for index in range(1024 * 16))
    for source, weight in enumerate(weights):
        assert abs(counts[source] - weight / sum(weights) * 1024 * 16) <= 1


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


def test_ten_billion_samples_cost_nothing() -> None:
    order = SampleOrder([10**10, 10**9], [10, 1], 1440, 3)
    place = order.place(10**10)
    assert 0 <= place.item < order.sizes[place.source]


def test_empty_sources_and_weights_of_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="at least one packed row"):
        SampleOrder([3, 0], [1, 1], 4, 0)
    with pytest.raises(UserError, match="weights must be positive"):
        SampleOrder([3, 3], [1, 0], 4, 0)
