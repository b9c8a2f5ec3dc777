"""Segments: runs of whole sentences of one document, at most `max_length` tokens, as few and as full as possible.

A document is tokenized once, whole, and cut afterwards at token borders, so joining its segments gives back exactly
its tokens. BOS stands only on the first segment of a document, EOS only on the last; they count as part of the first
and the last sentence. A sentence longer than the limit is cut at the last token that fits and ends a character.

Every step takes and gives an iterator, so that it can become a step of a bigger pipeline.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from src.corpus.readers import Document
from src.corpus.sentences import Language, sentence_ends
from src.models.tokenizer import TextEncoder

BATCH_BYTES = 1 << 20  # text handed to the tokenizer at once
MAX_CHARACTER_TOKENS = 8  # tokens one character can take (4 bytes in UTF-8), with room


@dataclass(frozen=True)
class TokenizedDocument:
    """A document, its UTF-8 bytes and the ids of the whole text, int32 ``[tokens]``."""

    document: Document
    raw: bytes
    ids: np.ndarray


@dataclass(frozen=True)
class SegmentedDocument:
    """A document's ids with BOS and EOS, and where each segment ends in them.

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


def tokenize(documents: Iterable[Document], encoder: TextEncoder) -> Iterator[TokenizedDocument]:
    """Encode documents a batch at a time; the order is kept."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES // 2:
            yield from _encode(batch, encoder)
            batch, size = [], 0
    yield from _encode(batch, encoder)


def _encode(batch: list[Document], encoder: TextEncoder) -> Iterator[TokenizedDocument]:
    for document, ids in zip(batch, encoder.encode_batch([document.text for document in batch]), strict=True):
        yield TokenizedDocument(document, document.text.encode("utf-8"), ids)


def segment(
    documents: Iterable[TokenizedDocument],
    encoder: TextEncoder,
    language: Language,
    max_length: int,
    bos_id: int | None = None,
    eos_id: int | None = None,
) -> Iterator[SegmentedDocument]:
    """Cut tokenized documents into segments of at most `max_length` tokens, BOS and EOS included."""
    for tokenized in documents:
        raw, ids = tokenized.raw, tokenized.ids
        ends = encoder.token_ends(ids, tokenized.document.text, len(raw))
        borders = sentence_borders(raw, ends, language)
        before, after = int(bos_id is not None), int(eos_id is not None)
        if before or after:
            ids = np.concatenate([[bos_id] * before, ids, [eos_id] * after]).astype(np.int32)
            borders = borders + before
        if len(ids):
            borders = np.append(borders[:-1], len(ids))
        if len(ids) > max_length:
            cuts = greedy_ends(borders, max_length, _whole_character_borders(raw, ends, before), after)
        else:
            cuts = borders[-1:]
        yield SegmentedDocument(tokenized.document, raw, ids, cuts)


def sentence_borders(raw: bytes, token_ends: np.ndarray, language: Language) -> np.ndarray:
    """Sentence ends as numbers of tokens before them, rising, the last one all tokens; int64 ``[borders]``.

    A sentence end inside a token moves to the token's end where only blanks lie between (``"\\n    "`` is often one
    token); else the two sentences stay together.

    Args:
        token_ends: byte offset of the end of each token, ``[tokens]``.
    """
    count = len(token_ends)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    sentences = sentence_ends(raw, language)[:-1]
    after = np.searchsorted(token_ends, sentences, side="left")  # first token that ends there or later
    inside = after < count
    sentences, after = sentences[inside], after[inside]
    reached = token_ends[after]
    keep = reached == sentences
    for index in np.flatnonzero(~keep):
        keep[index] = raw[sentences[index] : reached[index]].isspace()
    # tokens that stand for no bytes, or share the last byte of a character, stay with what is before them
    borders = np.searchsorted(token_ends, reached[keep], side="right")
    return np.unique(np.append(borders, count)).astype(np.int64)


def _whole_character_borders(raw: bytes, token_ends: np.ndarray, shift: int) -> np.ndarray:
    """Whether a document may be cut after so many tokens without cutting a character, bool ``[tokens + shift + 1]``."""
    starts = np.append((np.frombuffer(raw, dtype=np.uint8) & 0xC0) != 0x80, True)
    return np.concatenate([np.ones(shift + 1, dtype=bool), starts[token_ends]])


def greedy_ends(borders: np.ndarray, max_length: int, whole: np.ndarray, eos: int = 0) -> np.ndarray:
    """Ends of the segments, from the left, each at the last sentence border that fits; int64 ``[segments]``.

    Args:
        borders: sentence ends in tokens, the last one the number of tokens.
        whole: where an over-long sentence may be cut, bool over numbers of tokens.
        eos: 1 where the last token is EOS, which is never cut off alone.
    """
    total = int(borders[-1]) if len(borders) else 0
    ends: list[int] = []
    start = 0
    while total - start > max_length:
        limit = start + max_length
        fitting = int(np.searchsorted(borders, limit, side="right"))
        end = int(borders[fitting - 1]) if fitting else 0
        if end <= start:
            end = _cut(limit, start, whole, total - eos)
        ends.append(end)
        start = end
    if total:
        ends.append(total)
    return np.array(ends, dtype=np.int64)


def _cut(limit: int, start: int, whole: np.ndarray, text_end: int) -> int:
    """Where to cut an over-long sentence: at the limit, or a little earlier to keep a character or EOS company."""
    cut = min(limit, text_end - 1) if limit >= text_end else limit
    for end in range(cut, max(start, cut - MAX_CHARACTER_TOKENS), -1):
        if whole[end]:
            return end
    return max(cut, start + 1)
