"""Files that get their name when they are complete, and what is needed to recognise them later.

`AtomicFiles` writes a group of files that belong together under temporary names, sums them while they are written, and
renames them one after the other at the end; a killed or failed run leaves nothing that a reader takes for finished.
`FileSum` is size and SHA-256 of a file: any ``sha256sum`` agrees, and with the processor's SHA instructions it runs at
more than a gigabyte a second.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from src.errors import UserError

READ_BYTES = 1 << 22


@dataclass(frozen=True)
class FileSum:
    """Size of a file in bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str


def checksum(path: str | Path) -> FileSum:
    """Size and SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    size = 0
    with Path(path).open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return FileSum(size, digest.hexdigest())


class SummedFile:
    """A file being written, and the SHA-256 of what was written so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: Any) -> None:
        """Append bytes, or the bytes of a C-contiguous array."""
        view = memoryview(data)
        if view.nbytes:
            view = view.cast("B")
            self._stream.write(view)
            self._digest.update(view)
            self._bytes += view.nbytes

    def finish(self) -> FileSum:
        """Close the file once it is on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return FileSum(self._bytes, self._digest.hexdigest())

    def close(self) -> None:
        """Close the file as it is."""
        self._stream.close()


class AtomicFiles:
    """A group of files written as a whole or not at all, as a context manager that gives one `SummedFile` each.

    The last file gets its name last: put the one there that readers look for.

    Attributes:
        sums: after the end, the sum of each file by its name.

    Raises:
        UserError: a file exists and ``overwrite`` is false.
    """

    def __init__(self, paths: Sequence[Path], overwrite: bool = True) -> None:
        self.paths = list(paths)
        self.sums: dict[str, FileSum] = {}
        if not overwrite:
            for path in self.paths:
                if path.exists():
                    raise UserError(f"{path} exists: give another output, or overwrite=true")
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._files = [SummedFile(_temporary(path)) for path in self.paths]

    def __enter__(self) -> list[SummedFile]:
        return self._files

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def close(self) -> None:
        """Finish all files, then give them their names; until the last one has its own, the group is not there."""
        sums = [file.finish() for file in self._files]
        if len(self.paths) > 1:  # or a kill would leave the old index with the new tokens
            self.paths[-1].unlink(missing_ok=True)
        for path, file_sum in zip(self.paths, sums, strict=True):
            os.replace(_temporary(path), path)
            self.sums[path.name] = file_sum

    def abort(self) -> None:
        """Throw away what was written."""
        for file in self._files:
            file.close()
            file.path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")
