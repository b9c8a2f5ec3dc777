"""Limits of each key: requests and tokens a minute, requests at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.serving.errors import ApiError
from src.serving.rates import Bucket, KeyLimits


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_requests_of_a_minute_are_counted_for_each_key_alone() -> None:
    clock = Clock()
    limits = KeyLimits(requests_per_minute=2, now=clock)
    for _ in range(2):
        limits.enter("a")
    with pytest.raises(ApiError) as refused:
        limits.enter("a")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 30)
    limits.enter("b")
    clock.seconds = 30
    limits.enter("a")


def test_a_key_that_used_its_tokens_waits_until_they_are_there_again() -> None:
    clock = Clock()
    limits = KeyLimits(tokens_per_minute=60, now=clock)
    limits.enter("a")
    limits.leave("a", tokens=90)
    with pytest.raises(ApiError) as refused:
        limits.enter("a")
    assert refused.value.retry_after_s == 31
    clock.seconds = 31
    limits.enter("a")


def test_only_so_many_requests_of_a_key_run_at_a_time() -> None:
    limits = KeyLimits(concurrent=1)
    limits.enter("a")
    with pytest.raises(ApiError):
        limits.enter("a")
    limits.leave("a", 0)
    limits.enter("a")


def test_a_refused_request_uses_nothing_up() -> None:
    clock = Clock()
    limits = KeyLimits(requests_per_minute=60, concurrent=1, now=clock)
    limits.enter("a")
    for _ in range(100):
        with pytest.raises(ApiError):
            limits.enter("a")
    limits.leave("a", 0)
    limits.enter("a")


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200)), max_size=40), st.integers(1, 500))
def test_after_the_seconds_a_bucket_names_it_holds_enough(steps: list[tuple[float, int]], per_minute: int) -> None:
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    for pause, amount in steps:
        clock.seconds += pause
        bucket.take(amount)
        assert bucket.level <= per_minute
    clock.seconds += bucket.wait_s(1)
    assert bucket.wait_s(1) == pytest.approx(0, abs=1e-6)
