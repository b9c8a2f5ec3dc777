"""Random state that needs no saving: dropout masks are a function of the seed and the place in the run.

Before each micro-batch every generator is seeded with a mix of (seed, optimizer step, number of the micro-batch in its
global batch). So a resumed run draws what the uninterrupted one drew, whatever validation or generation drew in
between. The number counts micro-batches over accumulation and ranks in the order of their samples, therefore the same
samples get the same masks on any number of processes.
"""

import os
import random

import numpy as np
import torch

_MASK = (1 << 64) - 1


def seed_micro_batch(seed: int, step: int, micro_batch: int) -> None:
    """Seed PyTorch (CPU and GPUs), NumPy and Python for one micro-batch.

    Args:
        step: optimizer steps done before.
        micro_batch: number in the global batch, ``accumulation step × ranks + rank``.
    """
    mixed = mix(seed, step, micro_batch)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed asks every backend there could be: 90 µs
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(mixed)
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)


def run_seed() -> int:
    """What ``lightning.seed_everything`` was given in this process, 0 if nothing."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def mix(*numbers: int) -> int:
    """63 bits in which neighbouring inputs have nothing in common: chained SplitMix64 (Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1
