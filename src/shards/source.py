"""One source of token shards as a whole: all files of a split behind one index."""

import functools
import resource
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError
from src.shards.format import Shard
from src.shards.manifest import Manifest


class Source:
    """All segments of one split of a source, in shard order.

    Attributes:
        name: the source's name in the manifest.
        manifest: what made the shards, and the counts of every split.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest, shards: list[Shard]) -> None:
        self.folder = folder
        self.split = split
        self.manifest = manifest
        self.name = manifest.source
        self.shards = shards
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + len(shard))

    @functools.cached_property
    def lengths(self) -> NDArray[np.integer]:
        """Tokens of each segment, int32 ``[segments]``.

        A view into the index where the split is one file; else they are put together when first asked for, 4 bytes a
        segment. `lengths_of` needs no such copy.
        """
        if len(self.shards) == 1:
            return self.shards[0].lengths
        return np.concatenate([shard.lengths for shard in self.shards])

    @classmethod
    def open(cls, folder: str | Path, split: str = "train") -> "Source":
        """Open ``<folder>/<split>-*.idx``.

        Raises:
            UserError: the folder is not finished, has no such split, or holds other files than its manifest counts.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        paths = sorted(folder.glob(f"{split}-*.idx"))
        _allow_files(2 * len(paths))
        shards = [Shard(path.with_suffix("")) for path in paths]
        if not shards:
            splits = ", ".join(name for name, counts in manifest.splits.items() if counts.segments) or "none"
            raise UserError(f"{folder} has no {split} shards, only: {splits}")
        counted = manifest.splits.get(split)
        found = sum(len(shard) for shard in shards)
        if counted is not None and counted.segments != found:
            raise UserError(
                f"{folder} has {found} {split} segments where its manifest counts {counted.segments}: a shard is "
                "missing or from another run, run scripts/preprocess.py with overwrite=true"
            )
        return cls(folder, split, manifest, shards)

    def __len__(self) -> int:
        return self._starts[-1]

    def segment(self, index: int) -> NDArray[np.integer]:
        """Token ids of one segment, a read-only view ``[length]`` in the shard's dtype.

        Raises:
            IndexError: there is no such segment.
        """
        if not 0 <= index < self._starts[-1]:
            raise IndexError(f"segment {index} of source '{self.name}', which has {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self.shards[shard].segment(index - self._starts[shard])

    def lengths_of(self, indices: NDArray[np.integer]) -> NDArray[np.int32]:
        """Tokens of some segments, ``[n]``.

        Raises:
            IndexError: there is no such segment.
        """
        indices = self._checked(indices)
        if len(self.shards) == 1:
            return self.shards[0].lengths[indices]
        lengths = np.empty(len(indices), np.int32)
        for shard, rows, inner in self._by_shard(indices):
            lengths[rows] = shard.lengths[inner]
        return lengths

    def gather(self, indices: NDArray[np.integer], length: int, out: NDArray | None = None, pad_id: int = 0) -> NDArray:
        """Many segments at once, as rows of one array, several times quicker than one by one.

        Args:
            indices: segment numbers, ``[rows]``.
            length: tokens of a row; longer segments are cut, shorter ones filled up with ``pad_id``.
            out: where to put them, ``[rows, length]`` of any integer type that holds the ids; int64 if None.

        Raises:
            IndexError: there is no such segment.
        """
        indices = self._checked(indices)
        if len(self.shards) == 1:
            return self.shards[0].gather(indices, length, out, pad_id)
        tokens = np.empty((len(indices), length), np.int64) if out is None else out
        for shard, rows, inner in self._by_shard(indices):
            tokens[rows] = shard.gather(inner, length, None, pad_id)
        return tokens

    def _checked(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        indices = np.asarray(indices)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"segments {indices.min()} to {indices.max()} of source '{self.name}', which has {len(self)}"
            )
        return indices

    def _by_shard(self, indices: NDArray[np.integer]) -> Iterator[tuple[Shard, NDArray[np.int64], NDArray[np.integer]]]:
        """For each shard that is asked for: it, which of the indices it answers, and their numbers within it."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            yield self.shards[number], rows, indices[rows] - self._starts[number]

    def __reduce__(self) -> tuple[Callable[..., "Source"], tuple[Path, str]]:
        return Source.open, (self.folder, self.split)  # another process maps the files itself


def _allow_files(count: int) -> None:
    """Let this process keep so many files open besides a hundred others, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 100 if hard == resource.RLIM_INFINITY else min(count + 100, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
