"""Random state is a function of seed, step and micro-batch, and of nothing drawn before."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.modules.step_seed import mix, seed_micro_batch

places = st.tuples(st.integers(0, 2**32), st.integers(0, 10**7), st.integers(0, 10**4))


def drawn() -> tuple[list[float], float, float]:
    return torch.rand(3).tolist(), random.random(), float(np.random.rand())


@given(places, st.integers(0, 20))
def test_the_same_place_draws_the_same_whatever_was_drawn_before(place: tuple[int, int, int], before: int) -> None:
    seed_micro_batch(*place)
    first = drawn()
    for _ in range(before):
        drawn()
    seed_micro_batch(*place)
    assert drawn() == first


@given(places, places)
def test_other_places_have_other_seeds(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (mix(*one) == mix(*other)) == (one == other)


def test_seeds_of_neighbouring_steps_share_no_low_bits() -> None:
    low = {mix(42, step, micro) & 0xFFFFFFFF for step in range(300) for micro in range(30)}
    assert len(low) > 9000 - 5  # PyTorch's CPU generator takes 32 bits
