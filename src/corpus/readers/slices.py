"""A piece of an input file, and what a reader needs while it reads one."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from src.corpus.readers.compressed import PACKINGS, Damage, Unpacked
from src.corpus.readers.files import compression_of
from src.corpus.readers.reading import Reading
from src.corpus.readers.report import ReadReport
from src.errors import UserError

BUFFER_BYTES = 1 << 18
_NOT_OF_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # other surrogates than those `surrogateescape` makes


@dataclass(frozen=True)
class Slice:
    """Part of a file: bytes or Parquet row groups from `start` to `end`, of which every k-th record from the i-th.

    end: None means the end of the file.
    stride: ``(i, k)``; the way to share a compressed file, which cannot be entered in the middle.
    """

    file: str
    start: int = 0
    end: int | None = None
    stride: tuple[int, int] = (0, 1)

    @property
    def whole(self) -> bool:
        """Whether it holds the file from its first byte to its last."""
        return self.start == 0 and self.end is None

    def share(self, size: int, units: int) -> int:
        """How many of the file's `size` bytes count as this slice's; all slices of a file add up to its size.

        Args:
            units: what `start` and `end` count in the file: its bytes or its row groups.
        """
        i, k = self.stride
        end = units if self.end is None else min(self.end, units)
        span = size if units == 0 else size * end // units - size * min(self.start, units) // units
        return span * (i + 1) // k - span * i // k


class Input:
    """A slice while it is read: its file's name and size, and the report of what is met in it."""

    def __init__(self, slice: Slice, reading: Reading, report: ReadReport) -> None:
        self.slice, self.reading, self.report = slice, reading, report
        self.path = Path(slice.file)
        name = os.path.relpath(slice.file, reading.folder) if reading.folder else self.path.name
        self.name = without_surrogates(name)  # it becomes part of ids, and a file's name can be any bytes
        with readable(self.path):
            self.size = self.path.stat().st_size
        self.torn = False  # whether damage was met
        self._before = report.position
        self._share = 0
        self._units = 1

    def begin(self, units: int) -> None:
        """Say how many bytes or row groups the file has; from here on the report knows how much there is to read."""
        self._share = self.slice.share(self.size, units)
        self._units = (units if self.slice.end is None else self.slice.end) - self.slice.start
        self.report.input_bytes += self._share

    def advance(self, units: int) -> None:
        """Say how many bytes or row groups of the slice are behind."""
        self.report.position = self._before + min(self._share * units // max(self._units, 1), self._share)

    def finish(self) -> None:
        """Say that all of the slice is behind."""
        self.report.position = self._before + self._share

    def accept(self, text: str, replaced: bool = False) -> bool:
        """Count a record that could be read; False for an empty text, which makes no document."""
        self.report.records += 1
        self.report.replaced += replaced
        if not text:
            self.report.empty += 1
            return False
        self.report.documents += 1
        return True

    def bad(self, place: int | str, reason: str, count: int = 1) -> None:
        """Count records of this slice that cannot be read."""
        self.report.add_bad(self.name, str(place), reason, count)

    def damaged(self, place: int | str, damage: Damage) -> None:
        """Count damage to the file itself; of slices that share a file the first one does."""
        self.torn = True
        if self.slice.stride[0] == 0:
            self.bad(place, damage.reason)
            self.report.lost_bytes += damage.lost_bytes


class Stream:
    """The bytes of a file, decompressed. At damage it ends, and `resume` goes on behind it."""

    def __init__(self, raw: IO[bytes], compression: str | None) -> None:
        self._raw = raw
        self._unpacked = Unpacked(raw, compression) if compression else None
        reader = raw if self._unpacked is None else io.BufferedReader(self._unpacked, BUFFER_BYTES)
        self.read, self.readline, self.seek = reader.read, reader.readline, reader.seek

    @property
    def position(self) -> int:
        """Bytes of the file, as on disk, that are behind."""
        return self._raw.tell() if self._unpacked is None else self._unpacked.position

    @property
    def stopped(self) -> bool:
        """Whether the end that was reached is damage."""
        return self._unpacked is not None and self._unpacked.stopped

    def resume(self) -> Damage | None:
        """Pass over damage; None at the true end of the file."""
        return None if self._unpacked is None else self._unpacked.resume()


def without_surrogates(text: str) -> str:
    """Put U+FFFD for lone surrogates, and for bytes that `surrogateescape` kept as a UTF-8 decoder would."""
    return _NOT_OF_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """Open a file for reading.

    Raises:
        UserError: it is not there, may not be read, or is not compressed as its name says.
    """
    compression = compression_of(path)
    with readable(path), path.open("rb", buffering=BUFFER_BYTES) as raw:
        if compression:
            check_compression(path, raw.read(4), compression)
            raw.seek(0)
        yield Stream(raw, compression)


def check_compression(path: Path, head: bytes, compression: str) -> None:
    """Refuse a file whose first bytes are not those of its compression; an empty one passes."""
    if len(head) == 4 and not PACKINGS[compression].opening.match(head):
        raise UserError(f"{path} is not a {compression} file: rename it to what it is, or fetch it again")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say what the operating system says about a file in one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
