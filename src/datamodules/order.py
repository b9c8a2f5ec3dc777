"""The order of samples as a pure function of (seed, mix, global sample index).

Nothing is shuffled in memory and nothing is remembered: sample ``i`` of a run is computed from ``i``. So a run resumes
from one integer, on any number of processes, and its proportions hold in every global batch.

- Proportions: a block (one global batch) holds ``floor`` or ``ceil`` of each source's share, and over the run counts
  stay beside the exact shares, see `src.datamodules.shares`.
- Order within a block, and within a source and epoch: a keyed permutation of ``range(n)`` (a four-round Feistel network
  with cycle walking; Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"), O(1) memory at any ``n``.
- The end: a run is a list of *phases*, each with fixed shares. One that repeats its sources is a single phase without
  end; one that reads on with the other sources when one runs out changes phase then (`plan_phases`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from src.datamodules.shares import Shares, whole_weights
from src.errors import UserError

WHEN_EXHAUSTED = ("repeat", "stop", "reweight")
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Place:
    """Where a sample comes from: item ``item`` of source ``source``, which is being read for the ``epoch``-th time."""

    source: int
    item: int
    epoch: int


@dataclass(frozen=True)
class Places:
    """The places of consecutive samples, ``[samples]`` each."""

    sources: NDArray[np.int64]
    items: NDArray[np.int64]
    epochs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Place:
        return Place(int(self.sources[index]), int(self.items[index]), int(self.epochs[index]))

    def __iter__(self) -> Iterator[Place]:
        rows = zip(self.sources.tolist(), self.items.tolist(), self.epochs.tolist(), strict=True)
        return (Place(source, item, epoch) for source, item, epoch in rows)


@dataclass(frozen=True)
class Phase:
    """Blocks with the same shares.

    blocks: how many; None is no end.
    before: samples of each source in all phases before this one.
    """

    first_block: int
    blocks: int | None
    shares: Shares
    before: tuple[int, ...]

    @property
    def end(self) -> int | None:
        """The block after the last one."""
        return None if self.blocks is None else self.first_block + self.blocks


class SampleOrder:
    """Maps a global sample index to a `Place`.

    Args:
        sizes: items in each source.
        weights: share of each source, any positive scale.
        block_size: samples within which the shares hold to one sample; the global batch size.
        seed: another seed is another order of the same samples.
        when_exhausted: what happens when every item of a source was read: ``repeat`` reads it again in another order,
            ``stop`` ends before the first block it can't serve, ``reweight`` goes on with the other sources to the last
            item of all.
        amounts: read so many items of each source and end, whatever ``weights`` and ``when_exhausted`` say: the shares
            are those of the amounts, and a source is repeated as often as its amount takes.

    Attributes:
        phases: what is read when.
        total_samples: in the order; None without end. The last ``total_samples % block_size`` fill no block.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float | Fraction],
        block_size: int,
        seed: int,
        when_exhausted: str = "repeat",
        amounts: Sequence[int] | None = None,
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError(f"every source needs at least one packed row, found {list(sizes)}: check the shards")
        weights = list(weights if amounts is None else amounts)
        if min(weights) <= 0:
            raise UserError(f"mix weights must be positive, found {weights}: leave a source out instead")
        if when_exhausted not in WHEN_EXHAUSTED:
            raise UserError(f"when_exhausted={when_exhausted!r} is not one of {', '.join(WHEN_EXHAUSTED)}: choose one")
        self.sizes, self.block_size, self.seed = list(sizes), block_size, seed
        self.when_exhausted = when_exhausted if amounts is None else "amounts"
        self.amounts = None if amounts is None else list(amounts)
        self._sizes = np.array(self.sizes, np.int64)
        limits = self.amounts or (None if when_exhausted == "repeat" else self.sizes)
        self.phases = plan_phases(whole_weights(weights), limits, block_size, stop=self.when_exhausted == "stop")
        self.total_samples = None
        if limits is not None:
            self.total_samples = sum((phase.blocks or 0) * phase.shares.block_size for phase in self.phases)

    @property
    def whole_blocks(self) -> int | None:
        """Blocks of ``block_size`` samples in the order, None without end."""
        return None if self.total_samples is None else self.total_samples // self.block_size

    def place(self, index: int) -> Place:
        """Where sample ``index`` comes from.

        Raises:
            IndexError: the order ends before it.
        """
        block = index // self.block_size
        phase = self._phase(index)
        slot = permute(index % self.block_size, phase.shares.block_size, _key(self.seed, 1, block))
        before = phase.shares.after(block - phase.first_block)
        after = phase.shares.after(block - phase.first_block + 1)
        source = 0
        while slot >= after[source] - before[source]:
            slot -= after[source] - before[source]
            source += 1
        epoch, item = divmod(phase.before[source] + before[source] + slot, self.sizes[source])
        return Place(source, permute(item, self.sizes[source], _key(self.seed, 2, source, epoch)), epoch)

    def places(self, start: int, stop: int) -> Places:
        """`place` of samples ``start`` to ``stop - 1``, a hundred times faster.

        Raises:
            IndexError: the order ends before ``stop``.
        """
        parts = []
        while start < stop:
            phase = self._phase(start)
            end = stop if phase.end is None else min(stop, self._first_sample(phase) + self._samples(phase))
            parts.append(self._places(phase, np.arange(start, end)))
            start = end
        empty = [np.zeros((3, 0), np.int64)]
        return Places(*np.concatenate(parts or empty, axis=1))

    def taken(self, blocks: int) -> list[int]:
        """Samples of each source in the first ``blocks`` blocks."""
        phase = next(phase for phase in reversed(self.phases) if phase.first_block <= blocks)
        return [a + b for a, b in zip(phase.before, phase.shares.after(blocks - phase.first_block), strict=True)]

    def _places(self, phase: Phase, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sources, items and epochs of samples of one phase, ``[3, samples]``."""
        blocks, slots = np.divmod(indices, self.block_size)
        slots = permute(slots, phase.shares.block_size, _key(self.seed, 1, blocks))
        first = int(blocks[0])
        taken = phase.shares.after_each(np.arange(first, int(blocks[-1]) + 2) - phase.first_block)
        counts = np.diff(taken, axis=0)
        ends = np.cumsum(counts, axis=1)  # [blocks, sources]: the slots of a block before which each source ends
        rows = blocks - first
        sources = (slots[:, None] >= ends[rows]).sum(axis=1)
        nth = slots - (ends - counts)[rows, sources]
        positions = np.array(phase.before, np.int64)[sources] + taken[rows, sources] + nth
        sizes = self._sizes[sources]
        epochs, items = np.divmod(positions, sizes)
        return np.stack([sources, permute(items, sizes, _key(self.seed, 2, sources, epochs)), epochs])

    def _phase(self, index: int) -> Phase:
        if index < 0 or (self.total_samples is not None and index >= self.total_samples):
            raise IndexError(f"sample {index} of an order of {self.total_samples} samples")
        return next(p for p in reversed(self.phases) if p.first_block <= index // self.block_size)

    def _first_sample(self, phase: Phase) -> int:
        return phase.first_block * self.block_size

    def _samples(self, phase: Phase) -> int:
        return (phase.blocks or 0) * phase.shares.block_size

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a sample index to mean the same sample in another run."""
        return {
            "seed": self.seed,
            "global_batch_size": self.block_size,
            "packed_rows": self.sizes,
            "proportions": self.phases[0].shares.weights if self.amounts is None else self.amounts,
            "when_exhausted": self.when_exhausted,
        }


def plan_phases(weights: Sequence[int], limits: Sequence[int] | None, block_size: int, stop: bool) -> list[Phase]:
    """The phases of a run.

    In a block for which a source has not enough left, it gives what it has left, and the others share the rest of the
    block by their weights. The phase after it is without the source. The very last block takes what is left of all and
    may be smaller.

    Args:
        weights: whole numbers in the proportion of the sources.
        limits: samples that each source has; None for sources without end.
        stop: end with the first phase.

    Raises:
        UserError: there are not enough samples for one block.
    """
    before = [0] * len(weights)
    if limits is None:
        return [Phase(0, None, Shares(weights, block_size), tuple(before))]
    phases: list[Phase] = []
    left = list(limits)
    block = 0

    def add(shares: Shares, blocks: int) -> None:
        nonlocal block, before, left
        phases.append(Phase(block, blocks, shares, tuple(before)))
        taken = shares.after(blocks)
        block += blocks
        before = [old + new for old, new in zip(before, taken, strict=True)]
        left = [old - new for old, new in zip(left, taken, strict=True)]

    while any(left):
        active = [weight if rest else 0 for weight, rest in zip(weights, left, strict=True)]
        shares = Shares(active, block_size)
        if blocks := shares.blocks_within(left):
            add(shares, blocks)
        if stop:
            break
        if all(rest for rest, weight in zip(left, active, strict=True) if weight):  # else one ended with its last block
            wanted = [b - a for a, b in zip(shares.after(blocks), shares.after(blocks + 1), strict=True)]
            counts = last_block_of_some(active, left, wanted, block_size)
            add(Shares(counts, sum(counts)), 1)
    if not phases or phases[0].shares.block_size < block_size:
        raise UserError(
            f"the mix ends before its first global batch of {block_size} rows, its sources have {list(limits)} rows to "
            "give: give mix.when_exhausted=repeat, a smaller data.global_batch_size, or more data"
        )
    return phases


def last_block_of_some(
    weights: Sequence[int], left: Sequence[int], wanted: Sequence[int], block_size: int
) -> list[int]:
    """Counts of a block for which some source has not enough left."""
    counts = list(wanted)
    ended = [False] * len(left)
    while any(count > rest for count, rest in zip(counts, left, strict=True)):
        ended = [end or count > rest for end, count, rest in zip(ended, counts, left, strict=True)]
        others = [0 if end else weight for end, weight in zip(ended, weights, strict=True)]
        if not any(others):
            return list(left)
        shared = block_size - sum(rest for end, rest in zip(ended, left, strict=True) if end)
        counts = [
            rest if end else count
            for end, rest, count in zip(ended, left, Shares(others, shared).after(1), strict=True)
        ]
    return counts


@overload
def permute(index: int, size: int, key: int) -> int: ...
@overload
def permute(
    index: NDArray[np.int64], size: int | NDArray[np.int64], key: int | NDArray[np.uint64]
) -> NDArray[np.int64]: ...
def permute(index: Any, size: Any, key: Any) -> Any:
    """The image of ``index`` under the ``key``-th permutation of ``range(size)``; of each one where they are arrays."""
    if isinstance(index, int):
        half = max(1, ((size - 1).bit_length() + 1) // 2)
        index = _feistel(index, half, key)
        while index >= size:
            index = _feistel(index, half, key)
        return index
    sizes = np.broadcast_to(np.asarray(size, np.uint64), index.shape)
    keys = np.broadcast_to(np.asarray(key, np.uint64), index.shape)
    halves = np.maximum(1, (np.frexp((sizes - 1).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    image = _feistel(index.astype(np.uint64), halves, keys)
    outside = np.flatnonzero(image >= sizes)
    while len(outside):
        image[outside] = _feistel(image[outside], halves[outside], keys[outside])
        outside = outside[image[outside] >= sizes[outside]]
    return image.astype(np.int64)


def _feistel(index: Any, half: Any, key: Any) -> Any:
    """A permutation of the numbers of ``2 · half`` bits."""
    low = (1 << half) - 1
    left, right = index >> half, index & low
    for round_number in range(4):
        left, right = right, left ^ (_mix((right + (round_number << 58)) ^ key) & low)
    return left << half | right


def _key(*parts: Any) -> Any:
    key: Any = 0
    for part in parts:
        key = _mix(key ^ _mix(part.astype(np.uint64) if isinstance(part, np.ndarray) else part & _MASK))
    return key


def _mix(value: Any) -> Any:
    """The finaliser of SplitMix64 (Steele et al. 2014): 64 bits in, 64 well mixed bits out; arrays are uint64."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
