"""The order of samples as a pure function of (seed, mix, global sample index).

Nothing is shuffled in memory and nothing is remembered: sample ``i`` of a run is computed from ``i``. So a run resumes
from one integer, on any number of processes, and its proportions hold in every global batch.

- Proportions: a block of ``block_size`` samples (one global batch) holds ``floor`` or ``ceil`` of each source's share.
  Which sources get the extra sample is systematic sampling along a van der Corput sequence, so errors do not add up.
- Order within a source and epoch: a keyed permutation of ``range(n)`` (a four-round Feistel network with cycle
  walking; Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"), O(1) memory at any ``n``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError

_PERIOD = 1024  # blocks after which the extra samples repeat their pattern; a power of two
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Place:
    """Where a sample comes from: item ``item`` of source ``source``, which is being read for the ``epoch``-th time."""

    source: int
    item: int
    epoch: int


class SampleOrder:
    """Maps a global sample index to a `Place`.

    Args:
        sizes: items in each source.
        weights: share of each source, any positive scale.
        block_size: samples within which the shares hold to one sample; the global batch size.
        seed: another seed is another order of the same samples.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], block_size: int, seed: int) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError(f"every source needs at least one packed row, found {list(sizes)}: check the shards")
        if min(weights) <= 0:
            raise UserError(f"mix weights must be positive, found {list(weights)}: leave a source out instead")
        self.sizes = list(sizes)
        self.block_size = block_size
        self.seed = seed
        shares = np.asarray(weights, np.float64) / np.sum(weights) * block_size
        self._block_counts = _block_counts(shares, block_size)  # [_PERIOD, sources]
        self._before = np.zeros((_PERIOD + 1, len(sizes)), np.int64)
        np.cumsum(self._block_counts, axis=0, out=self._before[1:])

    def place(self, index: int) -> Place:
        block, slot = divmod(index, self.block_size)
        slot = permute(slot, self.block_size, _key(self.seed, 1, block))
        periods, phase = divmod(block, _PERIOD)
        counts = self._block_counts[phase]
        source = int(np.searchsorted(np.cumsum(counts), slot, side="right"))
        nth = slot - int(counts[:source].sum())
        position = periods * int(self._before[-1, source]) + int(self._before[phase, source]) + nth
        epoch, item = divmod(position, self.sizes[source])
        return Place(source, permute(item, self.sizes[source], _key(self.seed, 2, source, epoch)), epoch)

    def fingerprint(self) -> dict[str, object]:
        """What must be equal for a sample index to mean the same sample in another run."""
        return {
            "seed": self.seed,
            "global_batch_size": self.block_size,
            "packed_rows": self.sizes,
            "counts_per_1024_batches": self._before[-1].tolist(),
        }


def _block_counts(shares: NDArray[np.float64], block_size: int) -> NDArray[np.int64]:
    """Samples of each source in each block of a period, ``[_PERIOD, sources]``; every row sums to ``block_size``."""
    whole = np.floor(shares + 1e-9).astype(np.int64)
    edges = np.concatenate([[0.0], np.cumsum(np.clip(shares - whole, 0, None))])
    edges[-1] = block_size - whole.sum()  # the fractions sum to an integer: say so exactly
    bits = _PERIOD.bit_length() - 1
    offsets = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(_PERIOD)]) / _PERIOD
    below = np.ceil(edges[None, :] - offsets[:, None] - 1e-12).astype(np.int64)
    return whole[None, :] + np.diff(below, axis=1)


def permute(index: int, size: int, key: int) -> int:
    """The image of ``index`` under the ``key``-th permutation of ``range(size)``."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for round_number in range(4):
            left, right = right, left ^ (_mix(right + (round_number << 58) ^ key) & low)
        index = left << half | right
        if index < size:
            return index


def _key(*parts: int) -> int:
    key = 0
    for part in parts:
        key = _mix(key ^ _mix(part & _MASK))
    return key


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014): 64 bits in, 64 well mixed bits out."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
