"""Many texts analysed at once as arrays: what the quality rules measure is counted here, each thing once.

Most Chinese documents are shorter than the time one NumPy call takes is worth, so texts are judged in batches: they are
laid end to end with a line end between them, and every question is asked of all of them in one array operation. What
comes out for a text depends on that text alone, never on its neighbours in the batch.

Tokens are what repetition is counted in: for Chinese, each Han character or kana and each run of other letters and
digits, without punctuation; for other languages, what stands between blanks. Words and lines are what stands between
blanks and between line ends. All carry the number of their document.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from src.corpus.cleaning.characters import DIGIT, HAN, NEWLINE, SPACE, code_points, folded, kinds_of

LIMIT = 200_000  # characters of a text that are looked at; all arrays of a batch together take some 50 bytes for each

_BASE = 0x2C1B3C6D  # of the rolling hash, odd so that it has an inverse modulo 2^32
_MIX = np.uint32(0x9E3779B1)
_powers: dict[str, np.ndarray] = {}


@dataclass(frozen=True)
class Spans:
    """Pieces of the joined text in their order: where each starts and ends, and which document it belongs to."""

    starts: np.ndarray
    ends: np.ndarray
    documents: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Characters of each piece, int64 ``[pieces]``."""
        return self.ends - self.starts


class TextBatch:
    """Texts of one language, of each its first `limit` characters."""

    def __init__(self, texts: Sequence[str], language: str, limit: int = LIMIT) -> None:
        self.language = language
        self.whole = texts
        self.texts = [text if len(text) <= limit else text[:limit] for text in texts]
        self.joined = "\n".join(self.texts) + "\n"
        lengths = np.fromiter(map(len, self.texts), np.int64, len(self.texts)) + 1
        self.starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        self.codes = code_points(self.joined)
        self.kinds = kinds_of(self.codes)
        self.duplicates: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # what two rules ask of lines and paragraphs

    def __len__(self) -> int:
        return len(self.texts)

    def totals(self, mask: np.ndarray) -> np.ndarray:
        """How often a mask over the characters is true in each document, int64 ``[documents]``."""
        return np.add.reduceat(mask, self.starts, dtype=np.int32).astype(np.int64)

    def count(self, character: str) -> np.ndarray:
        """How often a character stands in each document, float64 ``[documents]``."""
        mask = self.codes == ord(character)
        return self.totals(mask).astype(np.float64) if mask.any() else np.zeros(len(self))

    def sums(self, documents: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Weights (or ones) added up by document, float64 ``[documents]``."""
        return np.bincount(documents, weights, len(self)).astype(np.float64)

    @cached_property
    def small(self) -> np.ndarray:
        """The code points with small letters for capital ones."""
        return folded(self.codes)

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters that are not blank, int64 ``[documents]``."""
        return self.totals(self.kinds > SPACE)

    @cached_property
    def words(self) -> Spans:
        """What stands between blanks."""
        filled = self.kinds > SPACE
        change = filled.copy()
        np.not_equal(filled[1:], filled[:-1], out=change[1:])
        bounds = np.flatnonzero(change)
        starts = bounds[::2]
        return Spans(starts, bounds[1::2], self._documents(starts))

    @cached_property
    def tokens(self) -> Spans:
        """What repetition is counted in."""
        if self.language != "zh":
            return self.words
        inside = self.kinds >= DIGIT
        border = self.kinds == HAN
        border = border[1:] | border[:-1]
        starts = inside.copy()
        starts[1:] &= border | ~inside[:-1]
        ends = inside.copy()
        ends[:-1] &= border | ~inside[1:]
        first = np.flatnonzero(starts)
        return Spans(first, np.flatnonzero(ends) + 1, self._documents(first))

    @cached_property
    def lines(self) -> Spans:
        """Lines that are not blank, without the blanks around them."""
        return self._lines[0]

    @cached_property
    def paragraphs(self) -> Spans:
        """Runs of lines that no blank line parts."""
        lines, after_blank = self._lines
        after_blank = after_blank | (np.diff(lines.documents, prepend=-1) != 0)
        last = np.concatenate((after_blank[1:], np.ones(min(len(after_blank), 1), bool)))
        return Spans(lines.starts[after_blank], lines.ends[last], lines.documents[after_blank])

    @cached_property
    def _lines(self) -> tuple[Spans, np.ndarray]:
        ends = np.flatnonzero(self.kinds == NEWLINE)
        after = np.searchsorted(self.words.starts, ends)  # words before the end of each line
        filled = np.diff(after, prepend=0) > 0
        first = np.concatenate(([0], after[:-1]))[filled]
        after_blank = np.concatenate(([False], ~filled[:-1]))[filled]
        starts = self.words.starts[first]
        lines = Spans(starts, self.words.ends[after[filled] - 1], self.words.documents[first])
        return lines, after_blank

    def hashes(self, spans: Spans) -> np.ndarray:
        """A number for each piece, the same for the same letters in either case, uint32 ``[pieces]``."""
        _, inverses = _powers_up_to(len(self.codes) + 1)
        sums = self._rolling
        hashes = (sums[spans.ends] - sums[spans.starts]) * inverses[spans.starts]
        hashes ^= hashes >> np.uint32(15)
        return hashes * _MIX

    @cached_property
    def token_hashes(self) -> np.ndarray:
        """The hash of each token."""
        return self.hashes(self.tokens)

    @cached_property
    def _rolling(self) -> np.ndarray:
        powers, _ = _powers_up_to(len(self.codes) + 1)
        mixed = self.small + np.uint32(1)
        mixed *= _MIX
        mixed ^= mixed >> np.uint32(13)
        mixed *= powers[: len(mixed)]
        sums = np.zeros(len(mixed) + 1, np.uint32)
        np.cumsum(mixed, dtype=np.uint32, out=sums[1:])
        return sums

    def _documents(self, positions: np.ndarray) -> np.ndarray:
        """The document of each of rising positions in the joined text, int32."""
        counts = np.diff(np.searchsorted(positions, self.starts), append=len(positions))
        return np.repeat(np.arange(len(self), dtype=np.int32), counts)


def word_hashes(words: Sequence[str]) -> np.ndarray:
    """What `TextBatch.hashes` gives for words of a text, uint32 ``[words]``."""
    batch = TextBatch(words, "en")
    return batch.hashes(batch.words)


def _powers_up_to(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of the base and of its inverse modulo 2^32, uint32 ``[at least size]``."""
    if len(_powers.get("up", ())) < size:
        count = 1 << (size - 1).bit_length()
        for name, base in (("up", _BASE), ("down", pow(_BASE, -1, 1 << 32))):
            factors = np.full(count, base, np.uint32)
            factors[0] = 1
            _powers[name] = np.cumprod(factors, dtype=np.uint32)
    return _powers["up"], _powers["down"]
