"""Segments: runs of whole sentences of one document, at most `max_length` tokens, as few and as full as possible.

A document is tokenized once, whole, and cut afterwards at token borders, so joining its segments gives back exactly
its tokens. BOS stands only on the first segment of a document, EOS only on the last; they count as part of the first
and the last sentence. A sentence longer than the limit is cut at the last token that fits and ends a character.

Documents are tokenized in batches. Cutting takes one step a segment: from the last token that would fit, sentence ends
are looked for backwards, a few hundred bytes at a time. Most of a text is never searched, and of a document that fits
one segment, nothing.

Every step takes and gives an iterator, so that it can become a step of a bigger pipeline.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from datatrove.data import Document

from src.corpus.sentences import Language, SentenceEnds
from src.models.tokenizer import TextEncoder

BATCH_CHARACTERS = 1 << 17  # text handed to the tokenizer at once: more is no faster and needs more memory
MAX_CHARACTER_TOKENS = 8  # tokens one character can take (4 bytes in UTF-8), with room
WINDOW = 128  # bytes before the limit that are searched first


@dataclass(frozen=True)
class TokenizedBatch:
    """Documents and the ids of their texts.

    ids: int32 ``[tokens]``, one document after another.
    starts: where each document begins in them, int64 ``[documents + 1]``.
    """

    documents: list[Document]
    ids: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, slots=True)
class SegmentedDocument:
    """A document, its text in UTF-8, its ids with BOS and EOS, and where each segment ends in them.

    ids: int32 ``[tokens]``.
    ends: int64 ``[segments]``, the last one ``len(ids)``.
    """

    document: Document
    raw: bytes
    ids: np.ndarray
    ends: np.ndarray

    def segments(self) -> list[np.ndarray]:
        """The ids of each segment, views into `ids`."""
        return np.split(self.ids, self.ends[:-1])


def tokenize(documents: Iterable[Document], encoder: TextEncoder) -> Iterator[TokenizedBatch]:
    """Encode documents a batch at a time; the order is kept."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield _encode(batch, encoder)
            batch, size = [], 0
    if batch:
        yield _encode(batch, encoder)


def _encode(batch: list[Document], encoder: TextEncoder) -> TokenizedBatch:
    return TokenizedBatch(batch, *encoder.encode_flat([document.text for document in batch]))


def segment(
    batches: Iterable[TokenizedBatch],
    encoder: TextEncoder,
    language: Language,
    max_length: int,
    bos_id: int | None = None,
    eos_id: int | None = None,
) -> Iterator[SegmentedDocument]:
    """Cut tokenized documents into segments of at most `max_length` tokens, BOS and EOS included."""
    before, after = int(bos_id is not None), int(eos_id is not None)
    for batch in batches:
        lengths = np.diff(batch.starts) + (before + after)
        starts = batch.starts.tolist()
        for index, document in enumerate(batch.documents):
            ids = batch.ids[starts[index] : starts[index + 1]]
            raw = document.text.encode("utf-8")
            if len(ids) + before + after <= max_length:
                ends = lengths[index : index + int(lengths[index] > 0)]
            else:
                token_ends = encoder.token_ends(ids, document.text, len(raw))
                ends = segment_ends(raw, token_ends, language, max_length, before, after)
            yield SegmentedDocument(document, raw, _marked(ids, bos_id, eos_id), ends)


def _marked(ids: np.ndarray, bos_id: int | None, eos_id: int | None) -> np.ndarray:
    """The ids between BOS and EOS, where there are such."""
    if bos_id is None and eos_id is None:
        return ids
    first = int(bos_id is not None)
    marked = np.empty(first + len(ids) + int(eos_id is not None), dtype=np.int32)
    marked[first : first + len(ids)] = ids
    if bos_id is not None:
        marked[0] = bos_id
    if eos_id is not None:
        marked[-1] = eos_id
    return marked


def segment_ends(
    raw: bytes, token_ends: np.ndarray, language: Language, max_length: int, before: int = 0, after: int = 0
) -> np.ndarray:
    """Ends of the segments of one document, from the left, each at the last sentence border that fits.

    Args:
        raw: the text in UTF-8.
        token_ends: byte offset of the end of each of its tokens, int64 ``[tokens]``.
        before, after: 1 where BOS or EOS is put before or after the text's tokens; EOS is never cut off alone.

    Returns:
        int64 ``[segments]``, counted in tokens with BOS and EOS, the last one all of them.
    """
    sentences = SentenceEnds(raw, language)
    offsets = np.ascontiguousarray(token_ends, dtype=np.int64).data  # read one by one, several times faster
    total = before + len(offsets) + after
    ends: list[int] = []
    start = 0
    while total - start > max_length:
        limit = start + max_length
        border = _last_border(sentences, raw, offsets, max(start - before, 0), limit - before)
        start = border + before if border else _cut(raw, offsets, before, start, min(limit, total - after - 1))
        ends.append(start)
    if total:
        ends.append(total)
    return np.array(ends, dtype=np.int64)


def _last_border(sentences: SentenceEnds, raw: bytes, token_ends: memoryview, start: int, limit: int) -> int:
    """The last sentence border after more than `start` and at most `limit` tokens of the text; 0 where there is none.

    A sentence end inside a token moves to the token's end where only blanks lie between (``"\\n    "`` is often one
    token); else the two sentences stay together. Tokens that stand for no bytes, or share the last byte of a character,
    stay with what is before them.
    """
    limit = min(limit, len(token_ends) - 1)
    if limit <= start:
        return 0
    first = bisect_left(token_ends, token_ends[start - 1], 0, start) if start else 0
    low, high = token_ends[first - 1] if first else 0, token_ends[limit - 1]
    width = WINDOW
    while low < high:
        middle = max(low, high - width)
        for end in reversed(sentences.between(middle, high)):
            reached = token_ends[bisect_left(token_ends, end, first, limit)]  # of the first token that ends there
            if reached == end or raw[end:reached].isspace():
                border = bisect_right(token_ends, reached, first)
                if start < border <= limit:
                    return border
        high, width = middle, width * 4
    return 0


def _cut(raw: bytes, token_ends: memoryview, before: int, start: int, limit: int) -> int:
    """Where to cut an over-long sentence: at the limit, or a little earlier to keep a character whole."""
    for end in range(limit, max(start, limit - MAX_CHARACTER_TOKENS), -1):
        position = token_ends[end - before - 1] if end > before else 0
        if position == len(raw) or raw[position] & 0xC0 != 0x80:
            return end
    return max(limit, start + 1)
