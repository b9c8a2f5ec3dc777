"""Megatron-core's indexed dataset, version 1, written and read with NumPy alone.

A shard is two files. ``PREFIX.bin`` is the token ids, one segment after another. ``PREFIX.idx``, little-endian, is::

    magic               9 bytes   "MMIDIDX" and two zero bytes
    version             uint64    1
    dtype code          uint8     4 = int32, 8 = uint16 (the others of the table below can be read)
    sequence count      uint64    n
    document count      uint64    d + 1
    sequence lengths    int32[n]  tokens of each segment
    sequence pointers   int64[n]  byte offset of each segment in the .bin file
    document indices    int64[d + 1]  first segment of each document, and n

Megatron-LM, NeMo and GPT-NeoX read what is written here; what they write can be read here. One *sequence* of the format
is one segment, one *document* one source document.
"""

import os
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np

from src.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, type[np.number]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
POINTER_CHUNK = 1 << 20  # segments whose pointers are computed at once when the index is written


def token_dtype(vocab_size: int) -> np.dtype:
    """Smallest dtype of the format that holds every id of a vocabulary: uint16 up to 65,536 ids, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


class ShardWriter:
    """Writes one shard, document by document, under temporary names until `close`.

    As a context manager it closes on success and throws the temporary files away on an exception. The memory it needs
    is 4 bytes a segment and 8 a document.
    """

    def __init__(self, prefix: str | Path, dtype: np.dtype | type) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype)
        if self.dtype not in CODES or self.dtype.kind not in "iu":
            raise ValueError(f"token dtype {self.dtype} is not an integer type of the format: use uint16 or int32")
        limits = np.iinfo(self.dtype)
        self._lowest, self._highest = int(limits.min), int(limits.max)
        self._lengths = array("i")
        self._documents = array("q", [0])
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._bin = _temporary(self.prefix, ".bin").open("wb")

    def add_document(self, segments: Iterable[np.ndarray]) -> None:
        """Append one document.

        Raises:
            ValueError: an id does not fit the dtype; nothing is wrapped, and nothing of the document is written.
        """
        parts = [np.asarray(segment) for segment in segments]
        for part in parts:
            if part.size and (part.min() < self._lowest or part.max() > self._highest):
                raise ValueError(
                    f"token id {int(part.max())} (lowest {int(part.min())}) does not fit {self.dtype} in shard "
                    f"{self.prefix}: choose the dtype by token_dtype(vocab_size)"
                )
        for part in parts:
            self._bin.write(part.astype(self.dtype, copy=False).tobytes())
            self._lengths.append(part.size)
        self._documents.append(len(self._lengths))

    def close(self) -> None:
        """Finish both files and give them their names; the index, which readers look for, comes last."""
        self._sync_and_close(self._bin)
        index = _temporary(self.prefix, ".idx").open("wb")
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.zeros(0, dtype=np.int32)
        index.write(HEADER.pack(MAGIC, VERSION, CODES[self.dtype], len(lengths), len(self._documents)))
        index.write(lengths.astype("<i4", copy=False).tobytes())
        position = 0
        for start in range(0, len(lengths), POINTER_CHUNK):
            sizes = lengths[start : start + POINTER_CHUNK].astype(np.int64) * self.dtype.itemsize
            pointers = position + np.cumsum(sizes) - sizes
            index.write(pointers.astype("<i8", copy=False).tobytes())
            position += int(sizes.sum())
        index.write(np.frombuffer(self._documents, dtype=np.int64).astype("<i8", copy=False).tobytes())
        self._sync_and_close(index)
        for suffix in (".bin", ".idx"):
            os.replace(_temporary(self.prefix, suffix), self.prefix.with_name(self.prefix.name + suffix))

    def abort(self) -> None:
        """Throw away what was written."""
        self._bin.close()
        for suffix in (".bin", ".idx"):
            _temporary(self.prefix, suffix).unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @staticmethod
    def _sync_and_close(stream) -> None:  # type: ignore[no-untyped-def]
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()


def _temporary(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(f"{prefix.name}{suffix}.tmp")


class Shard:
    """One shard, opened without reading it: the arrays are views into two memory maps.

    Attributes:
        lengths: tokens of each segment, int32 ``[segments]``.
        offsets: byte offset of each segment in the ``.bin`` file, int64 ``[segments]``.
        document_indices: first segment of each document, then the number of segments, int64 ``[documents + 1]``.
        tokens: every id of the shard, ``[tokens]``.
    """

    def __init__(self, prefix: str | Path) -> None:
        """Open ``PREFIX.idx`` and ``PREFIX.bin``.

        Raises:
            UserError: a file is missing, of another format, or shorter or longer than its header says.
        """
        self.prefix = Path(prefix)
        index_path = self.prefix.with_name(self.prefix.name + ".idx")
        tokens_path = self.prefix.with_name(self.prefix.name + ".bin")
        for path in (index_path, tokens_path):
            if not path.is_file():
                raise UserError(f"shard file {path} is missing: run scripts/preprocess.py again")
        index = _map(index_path)
        self.dtype, count, documents = _read_header(index, index_path)
        start = HEADER.size
        self.lengths = np.frombuffer(index, dtype="<i4", count=count, offset=start)
        self.offsets = np.frombuffer(index, dtype="<i8", count=count, offset=start + 4 * count)
        self.document_indices = np.frombuffer(index, dtype="<i8", count=documents, offset=start + 12 * count)
        self._raw = _map(tokens_path)
        self._check(index_path, tokens_path)
        self.tokens = self._raw.view(self.dtype)

    def _check(self, index_path: Path, tokens_path: Path) -> None:
        """Compare first and last entries with the sizes of both files; the millions between are not touched."""
        count = len(self.lengths)
        if self.document_indices[0] != 0 or self.document_indices[-1] != count:
            raise UserError(
                f"shard index {index_path} is damaged (its documents do not cover its segments): "
                "run scripts/preprocess.py again"
            )
        end = int(self.offsets[-1]) + int(self.lengths[-1]) * self.dtype.itemsize if count else 0
        if end != self._raw.size:
            raise UserError(
                f"shard {tokens_path} has {self._raw.size} bytes, its index {index_path.name} speaks of {end}: "
                "one of the two is damaged or from another run, run scripts/preprocess.py again"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_indices) - 1

    def segment(self, index: int) -> np.ndarray:
        """Token ids of one segment, a read-only view ``[length]`` in the shard's dtype."""
        begin = int(self.offsets[index]) // self.dtype.itemsize
        length = int(self.lengths[index])
        if begin < 0 or length < 0 or begin + length > self.tokens.size:
            raise UserError(
                f"shard index {self.prefix}.idx is damaged at segment {index}: run scripts/preprocess.py again"
            )
        return self.tokens[begin : begin + length]

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return Shard, (self.prefix,)  # another process maps the files itself


def _map(path: Path) -> np.ndarray:
    """The bytes of a file as one read-only memory map (an empty file cannot be mapped)."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def _read_header(index: np.ndarray, path: Path) -> tuple[np.dtype, int, int]:
    """Dtype, number of segments and number of document indices, checked against the size of the file."""
    if index.size < HEADER.size or bytes(index[: len(MAGIC)]) != MAGIC:
        raise UserError(f"{path} is not a token index (no MMIDIDX header): give the prefix of Megatron-format shards")
    _, version, code, count, documents = HEADER.unpack(bytes(index[: HEADER.size]))
    if version != VERSION or code not in DTYPES:
        raise UserError(f"{path} has version {version} and dtype code {code}, expected version 1 and a code of 1 to 8")
    if documents < 1:
        raise UserError(f"{path} lists no documents: the file is damaged, run scripts/preprocess.py again")
    expected = HEADER.size + 12 * count + 8 * documents
    if index.size not in (expected, expected + count):  # a multimodal index carries one more byte a segment
        raise UserError(
            f"{path} has {index.size} bytes where its header asks for {expected}: it is damaged or half copied, "
            "run scripts/preprocess.py again"
        )
    return np.dtype(DTYPES[code]), count, documents
