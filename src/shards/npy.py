"""Token ids in NumPy's own file: a stream ``[tokens]`` or rows ``[rows, length]``.

A matrix is one segment a row. A stream says nothing of segments: two files beside it may, ``NAME.lengths.npy`` (tokens
of each segment, int64) and ``NAME.documents.npy`` (first segment of each document, int64). With them nothing is lost on
the way to another format and back. A stream without lengths is one segment, or cut into rows of a given length, the
last of which may be shorter. Without documents every segment is one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from src.errors import UserError
from src.shards.atomic import AtomicFiles, FileSum, SummedFile
from src.shards.format import shard_file
from src.shards.token_file import (
    BLOCK_SEGMENTS,
    Advance,
    Span,
    TokenFile,
    blocks,
    counted_segments,
    counted_tokens,
    document_blocks,
    ignore,
    length_blocks,
    token_blocks,
)

SIDECARS = (".lengths.npy", ".documents.npy")


class NpyTokens(TokenFile):
    """One ``.npy`` file of token ids with its sidecars, opened without reading them."""

    format = "npy"

    def __init__(self, path: str | Path, row_length: int | None = None) -> None:
        """Open ``NAME.npy``.

        Args:
            row_length: cut a stream that has no lengths into rows of so many tokens.

        Raises:
            UserError: it is not a file of integers of one or two dimensions, or its sidecars do not fit.
        """
        self.path = self.tokens_path = Path(path)
        self._row_length = row_length
        ids = _opened(self.path)
        if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2) or not ids.flags.c_contiguous:
            raise UserError(
                f"{self.path} holds {ids.dtype} of shape {list(ids.shape)} where token ids are integers [tokens] or "
                "[rows, length] in C order: save it again as such"
            )
        self.tokens = np.asarray(ids).reshape(-1)
        self.tokens_offset = getattr(ids, "offset", 0)
        stem = self.path.with_suffix("")
        lengths_path, documents_path = (shard_file(stem, suffix) for suffix in SIDECARS)
        self.files = (self.path, *(path for path in (lengths_path, documents_path) if path.exists()))
        self._step = self._fixed_length(ids, row_length) if not lengths_path.exists() or ids.ndim == 2 else 0
        if self._step:
            whole, rest = divmod(self.tokens.size, self._step)
            self.lengths = np.broadcast_to(np.int64(self._step), (whole,))
            if rest:
                self.lengths = np.append(self.lengths, rest)
        else:
            self.lengths = _sidecar(lengths_path)
            self._block_starts = self._sums(lengths_path)
        self._documents = _sidecar(documents_path) if documents_path.exists() else None
        if self._documents is not None and len(self._documents):
            first, last = int(self._documents[0]), int(self._documents[-1])
            if first != 0 or last > len(self):
                raise UserError(
                    f"{documents_path} does not cover the {len(self)} segments of {self.path}: copy it again"
                )

    def _fixed_length(self, ids: NDArray, row_length: int | None) -> int:
        if ids.ndim == 2:
            return max(ids.shape[1], 1)
        if row_length is not None and row_length < 1:
            raise UserError(f"row_length={row_length} is no length: give at least 1")
        return row_length or max(ids.size, 1)

    def _sums(self, path: Path) -> list[int]:
        """Where every block of segments starts, so that no start needs more than one block of lengths."""
        sums = [0]
        for begin, end in blocks(range(len(self)), BLOCK_SEGMENTS):
            sums.append(sums[-1] + int(self.lengths[begin:end].sum()))
        if sums[-1] != self.tokens.size:
            raise UserError(
                f"{path} speaks of {sums[-1]} tokens, {self.path} has {self.tokens.size}: one of the two is damaged "
                "or from another run, copy both again"
            )
        return sums

    @property
    def documents(self) -> int:
        return len(self) if self._documents is None else len(self._documents)

    def starts(self, begin: int, end: int) -> NDArray[np.int64]:
        if self._step:
            return np.arange(begin, end) * self._step
        block = begin // BLOCK_SEGMENTS
        lengths = self.lengths[block * BLOCK_SEGMENTS : end].astype(np.int64)
        starts = self._block_starts[block] + np.cumsum(lengths) - lengths
        return starts[begin - block * BLOCK_SEGMENTS :]

    def document_starts(self, begin: int, end: int) -> NDArray[np.int64]:
        if self._documents is None:
            return np.arange(begin, end)
        starts = self._documents[begin:end].astype(np.int64)
        return np.append(starts, len(self)) if end > len(self._documents) else starts

    def __reduce__(self) -> tuple[type["NpyTokens"], tuple[Path, int | None]]:
        return NpyTokens, (self.path, self._row_length)


def write_npy(
    path: Path, spans: Sequence[Span], overwrite: bool = False, advance: Advance = ignore
) -> dict[str, FileSum]:
    """Write documents of other token files as a stream with both sidecars.

    Raises:
        UserError: the files exist, an index is damaged, or the segments are of several modes.
    """
    for span in spans:
        if span.file.modes is not None and np.any(span.file.modes):
            raise UserError(f"{span.file.path} is multimodal, which a .npy file has no place for: use to=megatron")
    dtype = np.result_type(*(span.file.dtype.newbyteorder("=") for span in spans))
    if dtype.kind == "f":  # NumPy's answer to uint64 and int64 together
        dtype = np.dtype(np.int64)
    stem = path.with_suffix("")
    files = AtomicFiles([*(shard_file(stem, suffix) for suffix in SIDECARS), path], overwrite)
    with files as (lengths, documents, tokens):
        _write_header(lengths, np.dtype(np.int64), counted_segments(spans))
        for block in length_blocks(spans):
            lengths.write(block)
        _write_header(documents, np.dtype(np.int64), sum(span.end - span.begin for span in spans))
        for first_segments in document_blocks(spans):
            documents.write(np.ascontiguousarray(first_segments, np.int64))
        _write_header(tokens, dtype, counted_tokens(spans))
        for ids in token_blocks(spans, dtype, advance):
            tokens.write(ids)
    return files.sums


def _write_header(file: SummedFile, dtype: np.dtype, size: int) -> None:
    description = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    npy_format.write_array_header_1_0(file, description)  # type: ignore[arg-type]


def _opened(path: Path) -> NDArray:
    """An array as a read-only memory map."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the .npy file of a token stream")
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not a whole NumPy file ({error}): copy or save it again") from None


def _sidecar(path: Path) -> NDArray[np.integer]:
    numbers = _opened(path)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        raise UserError(f"{path} holds {numbers.dtype} of shape {list(numbers.shape)}, expected a list of integers")
    return np.asarray(numbers)
