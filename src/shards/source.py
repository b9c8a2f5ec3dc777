"""One source of token shards as a whole: all files of a split behind one index."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.shards.format import Shard
from src.shards.manifest import Manifest


class Source:
    """All segments of one split of a source, in shard order.

    Attributes:
        name: the source's name in the manifest.
        manifest: what made the shards, and the counts of every split.
        lengths: tokens of each segment, int32 ``[segments]``; a view into the index where the split is one file.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest, shards: list[Shard]) -> None:
        self.folder = folder
        self.split = split
        self.manifest = manifest
        self.name = manifest.source
        self.shards = shards
        self.lengths = shards[0].lengths if len(shards) == 1 else np.concatenate([shard.lengths for shard in shards])
        self._starts = np.cumsum([0] + [len(shard) for shard in shards])

    @classmethod
    def open(cls, folder: str | Path, split: str = "train") -> "Source":
        """Open ``<folder>/<split>-*.idx``.

        Raises:
            UserError: the folder is not finished, has no such split, or holds other files than its manifest counts.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        shards = [Shard(path.with_suffix("")) for path in sorted(folder.glob(f"{split}-*.idx"))]
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
        return int(self._starts[-1])

    def segment(self, index: int) -> np.ndarray:
        """Token ids of one segment, a read-only view ``[length]`` in the shard's dtype.

        Raises:
            IndexError: there is no such segment.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"segment {index} of source '{self.name}', which has {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[shard].segment(index - int(self._starts[shard]))

    def __reduce__(self) -> tuple[Callable[..., "Source"], tuple[Path, str]]:
        return Source.open, (self.folder, self.split)  # another process maps the files itself
