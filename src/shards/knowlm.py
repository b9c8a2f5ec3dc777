"""The triples of KnowLM's own pretraining code (zjunlp/KnowLM, ``pretrain/``), read and written without torch.

``PREFIX.bin`` is token ids, uint16. ``PREFIX.idx`` has no header: the start of every sample, uint64, counted in tokens,
then the length of every sample, uint16; 10 bytes a sample. ``PREFIX.dis`` is a list of integers, saved by
``torch.save``: how many samples each kind of data has, in the order of the samples (Chinese, English and code, for
instance), from which its loader takes fixed numbers for every batch.

The format records no documents. Where the id that opens a document is known (KnowLM's BOS is 1), they can be found;
else every sample counts as one.
"""

import io
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.errors import UserError
from src.shards.atomic import AtomicFiles, FileSum
from src.shards.format import mapped, shard_file
from src.shards.token_file import (
    BLOCK_SEGMENTS,
    Advance,
    Span,
    TokenFile,
    blocks,
    counted_segments,
    ignore,
    length_blocks,
    token_blocks,
)

RECORD_BYTES = 10
MAX_LENGTH = (1 << 16) - 1  # tokens of a sample
DTYPE = np.dtype("<u2")


class KnowLMTriple(TokenFile):
    """One triple, opened without reading it."""

    format = "knowlm"

    def __init__(self, prefix: str | Path, document_start: int | None = None) -> None:
        """Open ``PREFIX.idx``, ``PREFIX.bin`` and, where there is one, ``PREFIX.dis``.

        Args:
            document_start: the id with which a document begins; None makes every sample a document.

        Raises:
            UserError: a file is missing, or they do not fit together.
        """
        self.path = Path(prefix)
        self._document_start = document_start
        index_path, self.tokens_path, kinds = (shard_file(prefix, suffix) for suffix in (".idx", ".bin", ".dis"))
        index = mapped(index_path)
        raw = mapped(self.tokens_path)
        if index.size % RECORD_BYTES or raw.size % DTYPE.itemsize:
            raise UserError(
                f"{self.path} is not a KnowLM triple: its .idx has {index.size} bytes, which is no multiple of "
                f"{RECORD_BYTES}, or its .bin {raw.size}, which is odd; it is half copied or of another format"
            )
        count = index.size // RECORD_BYTES
        self._starts = np.frombuffer(index, dtype="<u8", count=count)
        self.lengths = np.frombuffer(index, dtype=DTYPE, count=count, offset=8 * count)
        self.tokens = raw.view(DTYPE)
        end = int(self._starts[-1]) + int(self.lengths[-1]) if count else 0
        if end != self.tokens.size:
            raise UserError(
                f"{self.tokens_path} has {self.tokens.size} tokens, its index speaks of {end}: one of the two is "
                "damaged or from another run, copy both again"
            )
        self.files = (self.tokens_path, *((kinds,) if kinds.exists() else ()), index_path)
        self.groups = tuple(read_kinds(kinds)) if kinds.exists() else ()
        if self.groups and sum(self.groups) != count:
            raise UserError(
                f"{kinds} counts {sum(self.groups)} samples, the index {count}: they are not from the same run"
            )
        self._documents = None if document_start is None else self._find_documents(document_start)

    def _find_documents(self, document_start: int) -> NDArray[np.int64]:
        found = []
        for begin, end in blocks(range(len(self)), BLOCK_SEGMENTS):
            starts, lengths = self.starts(begin, end), self.lengths[begin:end]
            if (starts < 0).any() or (starts + lengths > self.tokens.size).any():
                raise self.damaged(begin)
            first = self.tokens[np.minimum(starts, self.tokens.size - 1)]
            found.append(begin + np.flatnonzero((first == document_start) & (lengths > 0)))
        documents = np.concatenate([*found, [len(self)]]).astype(np.int64)
        return documents if not len(self) or documents[0] == 0 else np.insert(documents, 0, 0)

    @property
    def documents(self) -> int:
        return len(self) if self._documents is None else len(self._documents) - 1

    def starts(self, begin: int, end: int) -> NDArray[np.int64]:
        return self._starts[begin:end].astype(np.int64)

    def document_starts(self, begin: int, end: int) -> NDArray[np.int64]:
        return np.arange(begin, end) if self._documents is None else self._documents[begin:end]

    def __reduce__(self) -> tuple[type["KnowLMTriple"], tuple[Path, int | None]]:
        return KnowLMTriple, (self.path, self._document_start)


def write_triple(
    prefix: Path, spans: Sequence[Span], groups: Sequence[int], overwrite: bool = False, advance: Advance = ignore
) -> dict[str, FileSum]:
    """Write the segments of other token files as one triple.

    Args:
        groups: segments of each kind of data, in order.

    Raises:
        UserError: a length or an id is above 65,535, which uint16 can't hold, or the segments are of several modes.
    """
    if sum(groups) != counted_segments(spans):
        raise ValueError(f"groups of {list(groups)} segments are not the {counted_segments(spans)} that are written")
    for span in spans:
        if span.file.modes is not None and np.any(span.file.modes):
            raise UserError(f"{span.file.path} is multimodal, which KnowLM's format has no place for: use to=megatron")
    files = AtomicFiles([shard_file(prefix, suffix) for suffix in (".bin", ".dis", ".idx")], overwrite)
    with files as (tokens, kinds, index):
        position = 0
        for lengths in _checked_lengths(spans):
            ends = position + np.cumsum(lengths)
            index.write((ends - lengths).astype("<u8"))
            position = int(ends[-1])
        for lengths in length_blocks(spans):
            index.write(lengths.astype(DTYPE))
        kinds.write(kinds_bytes(groups))
        for block in token_blocks(spans, DTYPE, advance):
            tokens.write(block)
    return files.sums


def _checked_lengths(spans: Sequence[Span]) -> Iterator[NDArray[np.int64]]:
    done = 0
    for lengths in length_blocks(spans):
        if lengths.max() > MAX_LENGTH:
            raise UserError(
                f"segment {done + int((lengths > MAX_LENGTH).argmax())} has {lengths.max()} tokens and KnowLM's format "
                f"holds {MAX_LENGTH}: use to=megatron, or make the shards with a smaller max_length"
            )
        done += len(lengths)
        yield lengths


def read_kinds(path: Path) -> list[int]:
    """The list of integers in a file of ``torch.save``; nothing in the file is executed.

    Raises:
        UserError: it is something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            kinds = _PlainUnpickler(io.BytesIO(archive.read(name))).load()
    except (OSError, zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a list of counts saved by torch.save ({error}): copy it again") from None
    if not isinstance(kinds, list) or not all(type(kind) is int and kind >= 0 for kind in kinds):
        raise UserError(f"{path} holds {kinds!r:.80} where KnowLM saves a list of counts: give another triple")
    return kinds


class _PlainUnpickler(pickle.Unpickler):
    """Numbers, texts and containers only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def kinds_bytes(groups: Sequence[int]) -> bytes:
    """What ``torch.save(list(groups), …)`` amounts to: a zip of a pickle, equal bytes for equal lists."""
    buffer = io.BytesIO()
    parts = {"data.pkl": pickle.dumps(list(groups), protocol=2), "byteorder": b"little", "version": b"3\n"}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return buffer.getvalue()
