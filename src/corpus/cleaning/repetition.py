"""How much of a text says again what it said before, in the manner of Gopher (Rae et al. 2021, arXiv:2112.11446, A1).

- Duplicate n-grams: the share of a text's token characters that lie in an n-gram that has been there before, each
  character counted once. It never rises with n: what repeats ten tokens repeats five. So the smallest n is counted
  first, and only texts over the smallest threshold need the others.
- Top n-gram: the characters of the n-gram that takes most room, times how often it stands there (at least twice). An
  n-gram is covered by n-1 pairs that are each at least as frequent, so 3- and 4-grams need a look only in texts whose
  top pair has half their threshold.

Repeated hashes are found with a table instead of sorting. They have 32 bits and are compared within a document, so of
a million n-grams some hundred are taken for repeated that are not: a ten-thousandth.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from src.corpus.cleaning.batch import Spans, TextBatch

_MIX = 0x9E3779B1
_DOCUMENT_STEP = 0x85EBCA6B
_STEP = np.uint32(0xC2B2AE35)
_SLOTS_PER_HASH = 2
_PAIR_COVER = 2  # pairs that cover an n-gram of up to four tokens


class Repetition:
    """The n-grams of a batch of texts that stand there more than once.

    An n-gram can only repeat where all shorter ones in it repeat, so each size is looked for among what the size before
    has left; sizes and the documents asked about may therefore only go one way.
    """

    def __init__(self, batch: TextBatch) -> None:
        spans = batch.tokens
        self.hashes = batch.token_hashes
        self.documents = spans.documents
        self.before = np.concatenate(([0], np.cumsum(spans.lengths)))  # characters before each token
        self.characters = np.maximum(batch.sums(spans.documents, spans.lengths), 1)
        self._known_size = 1
        self._known = np.ones(len(self.hashes), bool)  # n-grams of that size that may repeat, by their first token

    def counts(self) -> np.ndarray:
        """Tokens of each document, int64 ``[documents]``."""
        return np.bincount(self.documents, minlength=len(self.characters))

    def top_share(self, n: int, asked: np.ndarray, *, keep: bool = False) -> np.ndarray:
        """The share of the n-gram that takes most room, standing at least twice, float64 ``[documents]``.

        Args:
            asked: the documents it is counted in, bool ``[documents]``; it is 0 in the others.
            keep: whether bigger n-grams will be asked about in these documents only.
        """
        top = np.zeros(len(self.characters))
        _, firsts = self._repeated(n, asked, keep)
        if not len(firsts):
            return top
        counts = np.bincount(firsts)
        starts = np.flatnonzero(counts)
        sizes = (counts[starts] + 1) * (self.before[starts + n] - self.before[starts])
        documents = self.documents[starts]
        borders = np.flatnonzero(np.diff(documents, prepend=-1))
        top[documents[borders]] = np.maximum.reduceat(sizes, borders)
        return np.minimum(top / self.characters, 1)

    def duplicate_share(self, n: int, asked: np.ndarray) -> np.ndarray:
        """The share of characters in n-grams that have been there before, float64 ``[documents]``; `asked` as above."""
        repeats, _ = self._repeated(n, asked, keep=True)
        marks = np.zeros(len(self.hashes), bool)
        marks[repeats] = True
        starts = np.flatnonzero(marks)
        if not len(starts):
            return np.zeros(len(self.characters))
        ends = np.minimum(starts + n, np.append(starts[1:], len(marks)))  # overlapping ones count once
        sizes = self.before[ends] - self.before[starts]
        return np.bincount(self.documents[starts], sizes, len(self.characters)) / self.characters

    def _repeated(self, n: int, asked: np.ndarray, keep: bool) -> tuple[np.ndarray, np.ndarray]:
        """First tokens of the n-grams that have been there before, and of the first of their kind, int64 each."""
        count = len(self.hashes) - n + 1
        if count < 2:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        possible = self.documents[:count] == self.documents[n - 1 :]
        if self._known_size > 1:
            for shift in range(n - self._known_size + 1):
                possible &= self._known[shift : shift + count]
        if not asked.all():
            possible &= asked[self.documents[:count]]
        places = np.flatnonzero(possible)
        grams = self.hashes[places]
        for k in range(1, n):
            grams *= _STEP
            grams += self.hashes[places + k]
        grams ^= grams >> np.uint32(16)
        repeats, firsts = _repeats(grams, self.documents[places])
        repeats, firsts = places[repeats], places[firsts]
        if keep:
            self._known = np.zeros(len(self.hashes), bool)
            self._known[repeats] = True
            self._known[firsts] = True
            self._known_size = n
        return repeats, firsts


def duplicate_shares(batch: TextBatch, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Pieces (lines, paragraphs) that have been there before: their share in number, and of their characters.

    Both float64 ``[documents]``.
    """
    again, _ = _repeats(batch.hashes(spans), spans.documents)
    documents, lengths = spans.documents[again], spans.lengths[again]
    number = batch.sums(documents) / np.maximum(batch.sums(spans.documents), 1)
    return number, batch.sums(documents, lengths) / np.maximum(batch.sums(spans.documents, spans.lengths), 1)


def top_ngram_shares(
    repetition: Repetition, limits: dict[int, float], asked: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """For each n (2, 3 or 4) the share of the n-gram that takes most room, float64 ``[documents]``.

    Args:
        limits: the largest share allowed for each n; where it cannot be passed, the share is left 0.
        asked: the documents it is asked for, bool; the caller takes out those it drops as it goes along.
    """
    pairs = repetition.top_share(2, asked, keep=True)
    for n, limit in limits.items():
        yield n, pairs if n == 2 else repetition.top_share(n, asked & (pairs * _PAIR_COVER > limit))


def duplicate_ngram_shares(
    repetition: Repetition, limits: dict[int, float], asked: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """For each n the share of characters in n-grams that have been there before, float64 ``[documents]``.

    Args:
        limits: the largest share allowed for each n; where none can be passed, the share is left 0.
        asked: the documents it is asked for, bool; the caller takes out those it drops as it goes along.
    """
    upper = np.ones(len(asked))
    for n in sorted(limits):
        smallest = min(limit for size, limit in limits.items() if size >= n)
        upper = repetition.duplicate_share(n, asked & (upper > smallest))
        yield n, upper


def _repeats(hashes: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a hash has been before in the same document, and where it was first, int64 each, in no order.

    A table holds the first place of each slot; a place whose holder has its hash repeats it, and one whose holder has
    another hash goes into the next round, with other slots.
    """
    places = np.arange(len(hashes))
    repeats, firsts = [], []
    factor, slots_per_hash = 1, _SLOTS_PER_HASH
    while len(places):
        bits = int(slots_per_hash * len(places)).bit_length()
        slots = hashes + documents.view(np.uint32) * np.uint32(_DOCUMENT_STEP * factor & 0xFFFFFFFF)
        slots *= np.uint32(_MIX * factor & 0xFFFFFFFF)
        slots >>= np.uint32(32 - bits)
        index = slots.astype(np.int64)
        order = np.arange(len(places), dtype=np.int32)
        table = _table(bits)
        table[index[::-1]] = order[::-1]  # of several places the one assigned last stays: the first in the text
        holder = table[index]
        same = (hashes[holder] == hashes) & (documents[holder] == documents)
        rest = np.flatnonzero(~same)
        same &= holder != order
        again = np.flatnonzero(same)
        repeats.append(places[again])
        firsts.append(places[holder[again]])
        places, hashes, documents = places[rest], hashes[rest], documents[rest]
        factor += 2
        slots_per_hash = _SLOTS_PER_HASH * 16  # few are left: rounds cost more than room
    return np.concatenate(repeats or [places]), np.concatenate(firsts or [places])


@cache
def _table(bits: int) -> np.ndarray:
    return np.empty(1 << bits, np.int32)  # never read where it was not written before, so it needs no clearing
