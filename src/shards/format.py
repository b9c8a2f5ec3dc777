"""Megatron-core's indexed dataset, version 1, written and read with NumPy alone.

A shard is two files. ``PREFIX.bin`` is the token ids, one segment after another. ``PREFIX.idx``, little-endian, is::

    magic               9 bytes   "MMIDIDX" and two zero bytes
    version             uint64    1
    dtype code          uint8     4 = int32, 8 = uint16 (the other integers of the table below can be read)
    sequence count      uint64    n
    document count      uint64    d + 1
    sequence lengths    int32[n]  tokens of each segment
    sequence pointers   int64[n]  byte offset of each segment in the .bin file
    document indices    int64[d + 1]  first segment of each document, and n
    sequence modes      int8[n]   only in a multimodal index: 0 = text

Megatron-LM, NeMo and GPT-NeoX read what is written here; what they write can be read here. One *sequence* of the format
is one segment, one *document* one source document.
"""

import itertools
import mmap
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError
from src.shards.atomic import AtomicFiles, FileSum, SummedFile
from src.shards.token_file import (
    BLOCK_SEGMENTS,
    Advance,
    Span,
    TokenFile,
    counted_segments,
    document_blocks,
    ignore,
    length_blocks,
    mode_blocks,
    token_blocks,
)

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
MAX_LENGTH = (1 << 31) - 1  # tokens of a segment


def token_dtype(vocab_size: int) -> np.dtype:
    """Smallest dtype of the format that holds every id of a vocabulary: uint16 up to 65,536 ids, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


class ShardWriter:
    """Writes one shard, document by document, under temporary names until `close`.

    As a context manager it closes on success and throws the temporary files away on an exception. The memory it needs
    is 4 bytes a segment and 8 a document.

    Attributes:
        sums: after `close`, size and SHA-256 of both files by their names, for a `Manifest`.
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
        self._files = AtomicFiles([shard_file(self.prefix, ".bin"), shard_file(self.prefix, ".idx")])
        self._bin, self._idx = self._files.__enter__()
        self.sums: dict[str, FileSum] = self._files.sums

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
            self._bin.write(np.ascontiguousarray(part, dtype=self.dtype))
            self._lengths.append(part.size)
        self._documents.append(len(self._lengths))

    def add_documents(self, tokens: np.ndarray, lengths: np.ndarray, segments: np.ndarray) -> None:
        """Append many documents at once.

        Args:
            tokens: ids of all segments, one after another, ``[tokens]``.
            lengths: tokens of each segment, ``[segments]``.
            segments: how many of the segments each document has, ``[documents]``.

        Raises:
            ValueError: an id does not fit the dtype, or the numbers do not agree; then nothing is written.
        """
        if lengths.sum() != len(tokens) or segments.sum() != len(lengths):
            raise ValueError(
                f"{len(tokens)} tokens, {len(lengths)} segments of {lengths.sum()} tokens and documents of "
                f"{segments.sum()} segments do not belong together"
            )
        if len(tokens) and (tokens.min() < self._lowest or tokens.max() > self._highest):
            raise ValueError(
                f"token id {int(tokens.max())} (lowest {int(tokens.min())}) does not fit {self.dtype} in shard "
                f"{self.prefix}: choose the dtype by token_dtype(vocab_size)"
            )
        before = len(self._lengths)
        self._bin.write(np.ascontiguousarray(tokens, dtype=self.dtype))
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self._documents.frombytes((before + np.cumsum(segments, dtype=np.int64)).tobytes())

    def close(self) -> None:
        """Finish both files and give them their names; the index, which readers look for, comes last."""
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.zeros(0, dtype=np.int32)
        self._idx.write(HEADER.pack(MAGIC, VERSION, CODES[self.dtype], len(lengths), len(self._documents)))
        _write_arrays(
            self._idx,
            self.dtype.itemsize,
            lambda: (lengths[start : start + BLOCK_SEGMENTS] for start in range(0, len(lengths), BLOCK_SEGMENTS)),
            [np.frombuffer(self._documents, dtype=np.int64)],
        )
        self._files.close()

    def abort(self) -> None:
        """Throw away what was written."""
        self._files.abort()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_shard(
    prefix: Path, spans: Sequence[Span], overwrite: bool = False, advance: Advance = ignore
) -> dict[str, FileSum]:
    """Write documents of other token files, of any format, as one shard, in constant memory.

    Returns:
        size and SHA-256 of both files by their names.

    Raises:
        UserError: the shard exists, an index is damaged, or a segment or id is more than the format can hold.
    """
    dtype = _common_dtype(spans)
    documents = sum(span.end - span.begin for span in spans)
    segments = counted_segments(spans)
    files = AtomicFiles([shard_file(prefix, ".bin"), shard_file(prefix, ".idx")], overwrite)
    with files as (tokens, index):
        index.write(HEADER.pack(MAGIC, VERSION, CODES[dtype], segments, documents + 1))
        ends = [np.array([segments], np.int64)]
        _write_arrays(
            index, dtype.itemsize, lambda: _checked_lengths(spans), itertools.chain(document_blocks(spans), ends)
        )
        if any(span.file.modes is not None for span in spans):
            for modes in mode_blocks(spans):
                index.write(np.ascontiguousarray(modes))
        for block in token_blocks(spans, dtype, advance):
            tokens.write(block)
    return files.sums


def _checked_lengths(spans: Sequence[Span]) -> Iterator[NDArray[np.int64]]:
    for lengths in length_blocks(spans):
        if lengths.max() > MAX_LENGTH:
            raise UserError(
                f"a segment of {lengths.max()} tokens does not fit Megatron's format, which holds {MAX_LENGTH}: "
                "cut the stream with row_length=…"
            )
        yield lengths


def _common_dtype(spans: Sequence[Span]) -> np.dtype:
    """The dtype of the format that holds the ids of all spans; the format's larger types are signed."""
    signed: dict[str, np.dtype] = {"uint32": np.dtype(np.int32), "uint64": np.dtype(np.int64)}
    return np.result_type(*[signed.get(span.file.dtype.name, span.file.dtype.newbyteorder("=")) for span in spans])


def _write_arrays(
    index: SummedFile,
    itemsize: int,
    length_parts: Callable[[], Iterator[NDArray[np.integer]]],
    document_parts: Iterable[NDArray[np.int64]],
) -> None:
    """The three arrays of an index."""
    for lengths in length_parts():
        index.write(lengths.astype("<i4"))
    position = 0
    for lengths in length_parts():
        sizes = lengths.astype(np.int64) * itemsize
        index.write((position + np.cumsum(sizes) - sizes).astype("<i8"))
        position += int(sizes.sum())
    for first_segments in document_parts:
        index.write(first_segments.astype("<i8"))


def shard_file(prefix: str | Path, suffix: str) -> Path:
    """One file of a shard; a prefix may hold dots."""
    return Path(prefix).with_name(Path(prefix).name + suffix)


class Shard(TokenFile):
    """One shard, opened without reading it: the arrays are views into two memory maps.

    Attributes:
        lengths: tokens of each segment, int32 ``[segments]``.
        offsets: byte offset of each segment in the ``.bin`` file, int64 ``[segments]``.
        document_indices: first segment of each document, then the number of segments, int64 ``[documents + 1]``.
        tokens: every id of the shard, ``[tokens]``.
        modes: what a multimodal index says of each segment, int8 ``[segments]``; None for text alone.
    """

    format = "megatron"

    def __init__(self, prefix: str | Path) -> None:
        """Open ``PREFIX.idx`` and ``PREFIX.bin``.

        Raises:
            UserError: a file is missing, of another format, or shorter or longer than its header says.
        """
        self.path = self.prefix = Path(prefix)
        index_path, self.tokens_path = shard_file(prefix, ".idx"), shard_file(prefix, ".bin")
        self.files = (self.tokens_path, index_path)
        index = mapped(index_path)
        dtype, count, documents = _read_header(index, index_path)
        start = HEADER.size
        self.lengths = np.frombuffer(index, dtype="<i4", count=count, offset=start)
        self.offsets = np.frombuffer(index, dtype="<i8", count=count, offset=start + 4 * count)
        end = start + 12 * count + 8 * documents
        self.document_indices = np.frombuffer(index, dtype="<i8", count=documents, offset=end - 8 * documents)
        if index.size > end:
            self.modes = np.frombuffer(index, dtype=np.int8, count=count, offset=end)
        raw = mapped(self.tokens_path)
        self._check(index_path, raw.size, dtype.itemsize)
        self.tokens = raw.view(dtype)
        self._itemsize = dtype.itemsize
        self._last_windows = self.tokens[:, None]

    def _check(self, index_path: Path, found: int, itemsize: int) -> None:
        """Compare first and last entries with the sizes of both files; the millions between are not touched."""
        count = len(self.lengths)
        if self.document_indices[0] != 0 or self.document_indices[-1] != count:
            raise UserError(
                f"shard index {index_path} is damaged (its documents do not cover its segments): "
                "run scripts/preprocess.py again"
            )
        end = int(self.offsets[-1]) + int(self.lengths[-1]) * itemsize if count else 0
        if end != found:
            raise UserError(
                f"shard {self.tokens_path} has {found} bytes, its index {index_path.name} speaks of {end}: "
                "one of the two is damaged or from another run, run scripts/preprocess.py again"
            )

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_indices) - 1

    def starts(self, begin: int, end: int) -> NDArray[np.int64]:
        return self.offsets[begin:end] // self._itemsize

    def document_starts(self, begin: int, end: int) -> NDArray[np.int64]:
        return self.document_indices[begin:end]

    def segment(self, index: int) -> np.ndarray:
        """Token ids of one segment, a read-only view ``[length]`` in the shard's dtype."""
        begin = self.offsets.item(index) // self._itemsize
        end = begin + self.lengths.item(index)
        if not 0 <= begin <= end <= self.tokens.size:
            raise self.damaged(index)
        return self.tokens[begin:end]

    def gather(self, indices: NDArray[np.integer], length: int, out: NDArray | None = None, pad_id: int = 0) -> NDArray:
        """Many segments at once, as rows of one array.

        Args:
            indices: segment numbers, ``[rows]``.
            length: tokens of a row; longer segments are cut, shorter ones filled up with ``pad_id``.
            out: where to put them, ``[rows, length]`` of any integer type that holds the ids; int64 if None.
        """
        rows = np.empty((len(indices), length), np.int64) if out is None else out
        if not len(indices):
            return rows
        starts = self.offsets[indices] // self._itemsize
        lengths = self.lengths[indices]
        last = self.tokens.size - length
        if starts.min() >= 0 and starts.max() <= last and lengths.min() >= length:
            rows[...] = self._windows(length)[starts]
        else:
            self._gather_short(indices, starts, lengths, rows, pad_id)
        return rows

    def _gather_short(
        self, indices: NDArray, starts: NDArray[np.int64], lengths: NDArray[np.int32], rows: NDArray, pad_id: int
    ) -> None:
        """Rows where some segments are shorter than a row, or lie so near the end that no row's worth follows."""
        size, length = self.tokens.size, rows.shape[1]
        wrong = (starts < 0) | (lengths < 0) | (starts + lengths > size)
        if wrong.any():
            raise self.damaged(int(indices[wrong.argmax()]))
        inside = starts <= size - length
        if inside.any():
            rows[inside] = self._windows(length)[starts[inside]]
        for row in np.flatnonzero(~inside).tolist():
            rows[row, : size - starts[row]] = self.tokens[starts[row] :]
        rows[np.arange(length) >= lengths[:, None]] = pad_id

    def _windows(self, length: int) -> NDArray:
        """Every run of so many consecutive tokens, ``[tokens - length + 1, length]``, without a copy."""
        if self._last_windows.shape[1] != length:
            self._last_windows = np.lib.stride_tricks.sliding_window_view(self.tokens, length)
        return self._last_windows

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return Shard, (self.prefix,)  # another process maps the files itself


def mapped(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file as one read-only memory map (an empty file cannot be mapped).

    Raises:
        UserError: there is no such file.
    """
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return np.zeros(0, dtype=np.uint8)
            return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"shard file {path} is missing: run scripts/preprocess.py again") from None


def _read_header(index: np.ndarray, path: Path) -> tuple[np.dtype, int, int]:
    """Dtype, number of segments and number of document indices, checked against the size of the file."""
    if index.size < HEADER.size or bytes(index[: len(MAGIC)]) != MAGIC:
        raise UserError(f"{path} is not a token index (no MMIDIDX header): give the prefix of Megatron-format shards")
    _, version, code, count, documents = HEADER.unpack(bytes(index[: HEADER.size]))
    if version != VERSION or code not in DTYPES:
        raise UserError(f"{path} has version {version} and dtype code {code}, expected version 1 and a code of 1 to 8")
    if np.dtype(DTYPES[code]).kind not in "iu":
        raise UserError(f"{path} holds floating-point numbers (dtype code {code}) and no token ids: give another file")
    if documents < 1:
        raise UserError(f"{path} lists no documents: the file is damaged, run scripts/preprocess.py again")
    expected = HEADER.size + 12 * count + 8 * documents
    if index.size not in (expected, expected + count):  # a multimodal index carries one more byte a segment
        raise UserError(
            f"{path} has {index.size} bytes where its header asks for {expected}: it is damaged or half copied, "
            "run scripts/preprocess.py again"
        )
    return np.dtype(DTYPES[code]), count, documents
