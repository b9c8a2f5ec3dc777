"""Many phrases looked for at once, in a time that does not depend on how many they are.

Every pair of neighbouring characters is looked up in a table of the pairs with which phrases begin, and where one is
found, its first four characters in a second table; what remains is compared letter by letter. Small and capital letters
are the same. A phrase that begins or ends with a Latin letter or a digit begins or ends a word there; Han characters
match anywhere.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from src.corpus.cleaning.characters import DIGIT, LETTER, code_points, folded, kinds_of

SHORTEST = 2  # characters of a phrase
_PAIR = 2 * SHORTEST
_A, _B = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)
_SHIFT = np.uint32(16)


class PhraseFinder:
    """Finds phrases of two or more characters."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self.phrases = tuple(phrases)
        self._begins = np.zeros(1 << 16, bool)  # by a hash of the first two characters
        self._short = np.zeros(1 << 16, bool)  # the same, of phrases of two or three
        self._long = np.zeros(1 << 16, bool)  # by a hash of the first four
        self._by_pair: dict[tuple[int, int], list[tuple[bytes, int, bool, bool]]] = defaultdict(list)
        for index, phrase in sorted(enumerate(self.phrases), key=lambda item: -len(item[1])):  # the longest wins
            codes = folded(code_points(phrase))
            pairs = _pairs(codes)
            self._begins[pairs[0] >> _SHIFT] = True
            if len(codes) < _PAIR:
                self._short[pairs[0] >> _SHIFT] = True
            else:
                self._long[(pairs[:1] * _B + pairs[2:3]) >> _SHIFT] = True
            word = [_in_word(code) for code in (codes[0], codes[-1])]
            self._by_pair[int(codes[0]), int(codes[1])].append((codes.tobytes(), index, word[0], word[1]))

    def candidates(self, small: np.ndarray) -> np.ndarray:
        """Where a phrase may begin, int64, rising; `small` as in `find`."""
        if len(small) < SHORTEST or not self.phrases:
            return np.zeros(0, np.int64)
        pairs = _pairs(small)
        starts = np.flatnonzero(self._begins.take(pairs >> _SHIFT))
        if not len(starts):
            return starts
        second = pairs[np.minimum(starts + 2, len(pairs) - 1)]
        likely = self._long.take((pairs[starts] * _B + second) >> _SHIFT)
        return starts[likely | self._short.take(pairs[starts] >> _SHIFT)]

    def find(self, small: np.ndarray) -> list[tuple[int, int]]:
        """Where phrases stand, one after the other without overlap: first character, and number of the phrase.

        Args:
            small: code points with small letters, as `folded` gives them, uint32 ``[characters]``.
        """
        found: list[tuple[int, int]] = []
        behind = 0
        for start in self.candidates(small).tolist():
            if start >= behind and (match := self._match(small, start)) is not None:
                found.append((start, match))
                behind = start + len(self.phrases[match])
        return found

    def _match(self, small: np.ndarray, start: int) -> int | None:
        for phrase, index, begins_word, ends_word in self._by_pair.get((int(small[start]), int(small[start + 1])), ()):
            end = start + len(phrase) // small.itemsize
            if small[start:end].tobytes() != phrase or (begins_word and start and _in_word(small[start - 1])):
                continue
            if not (ends_word and end < len(small) and _in_word(small[end])):
                return index
        return None


def _pairs(codes: np.ndarray) -> np.ndarray:
    pairs = codes[:-1] * _A
    pairs += codes[1:]
    pairs *= _B
    return pairs


def _in_word(code: int) -> bool:
    return DIGIT <= kinds_of(np.array([code], np.uint32))[0] <= LETTER
