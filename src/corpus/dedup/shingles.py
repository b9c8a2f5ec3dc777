"""Text to shingles: the n-grams of its words as 64-bit hashes, whole batches of texts at once in NumPy.

A *token* is a run of letters, marks and digits in lower case, or one character of a script written without blanks (Han,
kana, Thai, Lao, Khmer, Burmese, Tibetan); anything else only separates. A token's hash is a polynomial of its code
points modulo 2^64, taken as a difference of prefix sums (Karp and Rabin 1987), so that no Python runs per character
or word. A *shingle* is a run of `ngram` tokens; a text with fewer has one shingle of all of them.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

BLOCK_CHARACTERS = 1 << 16  # looked at together: the arrays of a block stay in the cache
TABLE_SIZE = 0x32400  # letters end with the ideographs of plane 3
SEPARATOR, WORD, SINGLE = 0, 1, 2  # classes of characters
CLASS_SHIFT = 24
# scripts written without blanks, as ranges of code points
UNSPACED = (
    (0x0E01, 0x0F00),  # Thai, Lao
    (0x0F00, 0x10A0),  # Tibetan, Burmese
    (0x1780, 0x1800),  # Khmer
    (0x2E80, 0x2FE0),  # radicals
    (0x3005, 0x3008),
    (0x3040, 0x3100),  # kana
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),  # Han
    (0xF900, 0xFB00),
    (0x1B000, 0x1B170),
    (0x20000, 0x32400),
)
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
MASK = (1 << 64) - 1


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every bit of the input moves every bit of the output (SplitMix64's finaliser)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def shingle_hashes(texts: Sequence[str], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of several texts.

    Returns:
        The hashes one text after another, uint64 ``[shingles]``, repeats within a text left in; and how many of them
        each text has, int64 ``[texts]``. A text without letters or digits has none.
    """
    joined = "\n".join(texts)
    tokens, places = token_hashes(joined)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    ends = np.searchsorted(places, np.cumsum(lengths))
    starts = np.concatenate(([0], ends[:-1]))[: len(texts)]
    return _windows(tokens, starts, ends, ngram)


def _windows(tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the runs of `ngram` tokens inside each text, and all the tokens of a text with fewer."""
    count = len(tokens)
    sizes = ends - starts
    windows = np.zeros(count, np.uint64)
    kept = np.ones(count, bool)
    short = np.flatnonzero((sizes > 0) & (sizes < ngram))
    first = starts[short]
    partial = np.zeros(len(short), np.uint64)
    for k in range(ngram):
        factor = np.uint64(pow(BASE, 3 + 2 * k, 1 << 64))
        if count > k:
            windows[: count - k] += tokens[k:] * factor
        there = sizes[short] > k
        partial[there] += tokens[first[there] + k] * factor
        if k:
            kept[np.maximum(ends - k, starts)[sizes > 0]] = False
    windows[first] = partial
    kept[first] = True
    return mix(windows[kept]), np.where(sizes >= ngram, sizes - ngram + 1, np.minimum(sizes, 1))


def token_hashes(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a text: their hashes, uint64, and the index of the character each begins with, int64."""
    hashes, places = [], []
    position = 0
    while position < len(text):
        block = text[position : position + BLOCK_CHARACTERS]
        found, begins, used = _block_tokens(block, position + len(block) == len(text))
        hashes.append(found)
        places.append(begins + position)
        position += used
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate(hashes), np.concatenate(places)


def _block_tokens(block: str, is_last: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens of a block, and how many characters they take: a word at its end that may go on is left for the next one.

    A word as long as the block is cut.
    """
    table, powers, inverses = _tables()
    points = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), np.uint32)
    values = np.take(table, points, mode="clip")
    classes = np.zeros(len(block) + 2, np.uint8)  # with a separator before and behind
    classes[1:-1] = values >> CLASS_SHIFT
    inside = classes == WORD
    begins = np.flatnonzero(classes[1:-1] > inside[:-2])
    ends = np.flatnonzero(classes[1:-1] > inside[2:]) + 1
    used = len(block)
    if not is_last and inside[-2] and begins[-1] > 0:
        used = int(begins[-1])
        begins, ends = begins[:-1], ends[:-1]
    sums = np.zeros(len(block) + 1, np.uint64)
    np.cumsum(values * powers[: len(block)], out=sums[1:])
    return mix((sums[ends] - sums[begins]) * inverses[begins]), begins, used


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each code point its lower case with its class above, 0 for separators; powers of the base, and inverses."""
    table = np.zeros(TABLE_SIZE, np.uint32)
    for point in range(TABLE_SIZE - 1):  # the last entry stands for everything behind and stays a separator
        character = chr(point)
        if unicodedata.category(character)[0] in "LMN":
            table[point] = ord(character.lower()[0]) | WORD << CLASS_SHIFT
    for start, end in UNSPACED:
        part = table[start:end]
        part[part > 0] += (SINGLE - WORD) << CLASS_SHIFT
    powers, inverses = (_powers(base) for base in (BASE, pow(BASE, -1, 1 << 64)))
    return table, powers, inverses


def _powers(base: int) -> np.ndarray:
    powers = np.full(BLOCK_CHARACTERS, base & MASK, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)
