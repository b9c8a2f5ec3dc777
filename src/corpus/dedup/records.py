"""Files of keys: fixed-size little-endian records without a header, sorted, read by ranges of the key.

=============  ==============================================================================
``exact``      upper and lower half of a document's 128-bit hash (2 × uint64), document (uint32)
``minhash``    key of a band (uint64), document (uint32)
``paragraph``  upper and lower half of a line's hash, document, line (uint32)
=============  ==============================================================================

*Document* is the index inside the part the file belongs to. A *global id* is the part's number in the upper 32 bits of
a uint64 and that index in the lower: the order of ids is the order in which documents have the right to stay.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from src.corpus.dedup.settings import Kind
from src.errors import UserError

KEYS: dict[Kind, np.dtype] = {
    "exact": np.dtype([("key", "<u8"), ("low", "<u8"), ("document", "<u4")]),
    "minhash": np.dtype([("key", "<u8"), ("document", "<u4")]),
    "paragraph": np.dtype([("key", "<u8"), ("low", "<u8"), ("document", "<u4"), ("line", "<u4")]),
}
KEY_SPACE = 1 << 64
MAX_RECORDS = 1 << 18  # sorted at once: some 30 MB with the sorting


def global_ids(part: int, documents: np.ndarray) -> np.ndarray:
    """Ids that are unique in the corpus, uint64."""
    return documents.astype(np.uint64) | np.uint64(part << 32)


def split_id(identifier: int) -> tuple[int, int]:
    """Part and index of a global id."""
    return identifier >> 32, identifier & 0xFFFFFFFF


def sort_records(records: np.ndarray) -> np.ndarray:
    """Records in the order of their keys; equal keys stay in the order they had."""
    names = [name for name in ("low", "key") if name in (records.dtype.names or ())]
    return records[np.lexsort([np.ascontiguousarray(records[name]) for name in names])]


class RecordWriter:
    """Appends records to a file under a temporary name, which becomes its name when all went well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(path.name + ".tmp")
        self._stream = self._temporary.open("wb")

    def write(self, records: np.ndarray) -> None:
        self._stream.write(records.tobytes())

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # what went wrong first is what is told
                self._stream.close()
            self._temporary.unlink(missing_ok=True)
            return
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._temporary, self.path)


def write_records(path: Path, records: np.ndarray) -> None:
    """Write a file of records whole, or not at all."""
    with RecordWriter(path) as writer:
        writer.write(records)


def open_records(path: Path, dtype: np.dtype) -> np.ndarray:
    """The records of a file, as a read-only memory map that lives as long as the array.

    Raises:
        UserError: the file is missing, or not a whole number of records long.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path} is missing: remove the folder .work it belongs to and run again") from None
    if size % dtype.itemsize:
        raise UserError(
            f"{path} has {size} bytes, not a multiple of {dtype.itemsize}: it is damaged; remove the folder .work "
            "it belongs to and run again"
        )
    return np.memmap(path, dtype, mode="r") if size else np.zeros(0, dtype)


def by_key_range(
    files: Sequence[Path], dtype: np.dtype, low: int = 0, high: int = KEY_SPACE, max_records: int = MAX_RECORDS
) -> Iterator[list[np.ndarray]]:
    """Records of many sorted files with keys from `low` up to `high`, in pieces of about `max_records`.

    Yields for each piece the records out of each file. Equal keys are in one piece, the keys of a piece are below those
    of the next. One file is open at a time, however many there are.
    """
    total = sum(end - start for start, end in (_bounds(file, dtype, [low, high]) for file in files))
    pieces = max(1, -(-total // max_records))
    borders = [low + (high - low) * piece // pieces for piece in range(pieces + 1)]
    bounds = [_bounds(file, dtype, borders) for file in files]
    for piece in range(pieces):
        yield [
            np.array(open_records(file, dtype)[bound[piece] : bound[piece + 1]])
            for file, bound in zip(files, bounds, strict=True)
        ]


def _bounds(path: Path, dtype: np.dtype, borders: Sequence[int]) -> list[int]:
    """Index of the first record at or above each border, by binary search; only the pages on the way are read."""
    records = open_records(path, dtype)
    keys = records["key"]
    found: list[int] = []
    for border in borders:
        start, end = (found[-1] if found else 0), len(records)
        while start < end:
            middle = (start + end) // 2
            if int(keys[middle]) < border:
                start = middle + 1
            else:
                end = middle
        found.append(start)
    return found
