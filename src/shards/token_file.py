"""What every format of token shards has in common, and streams over parts of them.

A `TokenFile` is token ids in one flat array, cut into segments that follow one another, grouped into documents. Each
format says where its arrays lie; what is done with shards (counting, checking, copying) is written once, over this
face. A `Span` is a run of whole documents of one file, and the streams below read a list of spans as if it were one
shard, a block at a time: memory does not depend on the size of the files.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError

BLOCK_SEGMENTS = 1 << 20  # index entries handled at once
BLOCK_TOKENS = 1 << 21  # tokens handled at once

Advance = Callable[[int], None]


def ignore(_: int) -> None:
    """Progress that nobody watches."""


class TokenFile(ABC):
    """One shard of any format, opened without reading it.

    Attributes:
        format: name of the format, as in ``to=…``.
        path: what the shard is called: the prefix of its files, or its one file.
        files: every file it consists of.
        tokens: every id, ``[tokens]``, a read-only view into a memory map.
        tokens_path, tokens_offset: the file that holds the ids, and the byte at which they begin.
        lengths: tokens of each segment, ``[segments]``.
        modes: kind of each segment in a multimodal Megatron index, int8 ``[segments]``.
        groups: segments of each kind of data, where the format records kinds (KnowLM's ``.dis``).
    """

    format: ClassVar[str]
    path: Path
    files: tuple[Path, ...]
    tokens: NDArray[np.integer]
    tokens_path: Path
    tokens_offset: int = 0
    lengths: NDArray[np.integer]
    modes: NDArray[np.int8] | None = None
    groups: tuple[int, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """Type of the token ids."""
        return self.tokens.dtype

    @property
    @abstractmethod
    def documents(self) -> int:
        """Number of documents."""

    @abstractmethod
    def starts(self, begin: int, end: int) -> NDArray[np.int64]:
        """Position in ``tokens`` at which each of the segments ``begin`` to ``end - 1`` starts."""

    @abstractmethod
    def document_starts(self, begin: int, end: int) -> NDArray[np.int64]:
        """First segment of each of the documents ``begin`` to ``end - 1``; document ``documents`` is the end."""

    def __len__(self) -> int:
        return len(self.lengths)

    def segment(self, index: int) -> NDArray[np.integer]:
        """Token ids of one segment, a read-only view ``[length]``."""
        begin, length = int(self.starts(index, index + 1)[0]), int(self.lengths[index])
        if begin < 0 or length < 0 or begin + length > self.tokens.size:
            raise self.damaged(index)
        return self.tokens[begin : begin + length]

    def position(self, segment: int) -> int:
        """Position in ``tokens`` at which a segment starts; that of the segment after the last is the end."""
        return int(self.starts(segment, segment + 1)[0]) if segment < len(self) else self.tokens.size

    def first_segment(self, document: int) -> int:
        """First segment of a document; that of the document after the last is the number of segments."""
        return int(self.document_starts(document, document + 1)[0])

    def damaged(self, segment: int) -> UserError:
        """The error for an index that is wrong at a segment."""
        return UserError(
            f"the index of {self.path} is damaged at segment {segment}: make the shard again, "
            "or copy it again from where it came from"
        )


@dataclass(frozen=True)
class Span:
    """The documents ``begin`` to ``end - 1`` of a file."""

    file: TokenFile
    begin: int
    end: int

    @classmethod
    def whole(cls, file: TokenFile) -> "Span":
        """All documents of a file."""
        return cls(file, 0, file.documents)

    @property
    def segments(self) -> range:
        """Numbers of the segments of these documents."""
        return range(self.file.first_segment(self.begin), self.file.first_segment(self.end))

    @property
    def tokens(self) -> range:
        """Positions of the tokens of these documents."""
        segments = self.segments
        return range(self.file.position(segments.start), self.file.position(segments.stop))

    @property
    def groups(self) -> list[int]:
        """Segments of each kind of data in the span; one number where the file knows no kinds."""
        segments = self.segments
        edges = np.clip(np.cumsum([0, *self.file.groups]), segments.start, segments.stop)
        counts = [int(count) for count in np.diff(edges) if count]
        return counts or [len(segments)]


def blocks(span: range, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of consecutive pieces of a range."""
    for begin in range(span.start, span.stop, size):
        yield begin, min(begin + size, span.stop)


def length_blocks(spans: Sequence[Span]) -> Iterator[NDArray[np.int64]]:
    """Lengths of all segments, a block at a time.

    Raises:
        UserError: segments do not follow one another, so that copying the tokens as they lie would be wrong.
    """
    for span in spans:
        expected = span.tokens.start
        for begin, end in blocks(span.segments, BLOCK_SEGMENTS):
            lengths = span.file.lengths[begin:end].astype(np.int64)
            ends = expected + np.cumsum(lengths)
            wrong = (lengths < 0) | (span.file.starts(begin, end) != ends - lengths)
            if wrong.any():
                raise span.file.damaged(begin + int(wrong.argmax()))
            expected = int(ends[-1])
            yield lengths
        if expected != span.tokens.stop:
            raise span.file.damaged(span.segments.stop - 1)


def document_blocks(spans: Sequence[Span]) -> Iterator[NDArray[np.int64]]:
    """First segment of each document, counted from the first span's first segment; the end is not included."""
    shift = 0
    for span in spans:
        segments = span.segments
        shift -= segments.start
        last = segments.start
        for begin, end in blocks(range(span.begin, span.end), BLOCK_SEGMENTS):
            first = span.file.document_starts(begin, end)
            wrong = np.diff(first, prepend=last) < 0
            if wrong.any() or first[-1] > segments.stop:
                raise UserError(
                    f"the index of {span.file.path} is damaged at document {begin + int(wrong.argmax())}: "
                    "make the shard again, or copy it again from where it came from"
                )
            last = int(first[-1])
            yield first + shift
        shift += segments.stop


def token_blocks(
    spans: Sequence[Span], dtype: np.dtype | None = None, advance: Advance = ignore
) -> Iterator[NDArray[np.integer]]:
    """All token ids, a block at a time, read from the files and not through their memory maps.

    Args:
        dtype: what to turn them into.
        advance: called with the number of tokens of each block.

    Raises:
        UserError: an id does not fit ``dtype``; nothing is wrapped.
    """
    for span in spans:
        file = span.file
        with file.tokens_path.open("rb") as stream:
            stream.seek(file.tokens_offset + span.tokens.start * file.dtype.itemsize)
            for begin, end in blocks(span.tokens, BLOCK_TOKENS):
                block = np.fromfile(stream, file.dtype, end - begin)
                if len(block) != end - begin:
                    raise UserError(f"{file.tokens_path} ends before its index says: make it again or copy it again")
                yield block if dtype is None else converted(block, dtype, file.path)
                advance(len(block))


def mode_blocks(spans: Sequence[Span]) -> Iterator[NDArray[np.int8]]:
    """Kind of each segment, a block at a time; 0, which is text, where a file knows no kinds."""
    for span in spans:
        for begin, end in blocks(span.segments, BLOCK_SEGMENTS):
            yield np.zeros(end - begin, np.int8) if span.file.modes is None else span.file.modes[begin:end]


def converted(tokens: NDArray[np.integer], dtype: np.dtype, path: Path) -> NDArray[np.integer]:
    """Token ids as another integer type.

    Raises:
        UserError: one does not fit.
    """
    if not np.can_cast(tokens.dtype, dtype) and tokens.size:
        limits = np.iinfo(dtype)
        low, high = int(tokens.min()), int(tokens.max())
        if low < limits.min or high > limits.max:
            raise UserError(
                f"token id {high if high > limits.max else low} of {path} does not fit {dtype}, which holds "
                f"{limits.min} to {limits.max}: choose a format with larger ids, such as to=megatron"
            )
    return tokens.astype(dtype, copy=False)


def counted_segments(spans: Sequence[Span]) -> int:
    """Segments of all spans."""
    return sum(len(span.segments) for span in spans)


def counted_tokens(spans: Sequence[Span]) -> int:
    """Tokens of all spans."""
    return sum(len(span.tokens) for span in spans)
