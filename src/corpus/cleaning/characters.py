"""What kind of character each code point is, as arrays to look whole texts up in.

The kinds are numbered so that the questions asked most are one comparison: ``kind <= SPACE`` is blank,
``kind >= DIGIT`` belongs to a word, ``kind >= LETTER`` is alphabetic. Built from Python's own Unicode data on first
use, in some hundredths of a second.
"""

import unicodedata
from functools import cache

import numpy as np

NEWLINE, SPACE, OTHER, SYMBOL, PUNCTUATION, TERMINAL, DIGIT, LETTER, HAN = range(9)

TERMINALS = ".!?。！？…．｡؟۔।"  # marks that end a sentence
CLOSERS = "\"')]”’」』）】》〉"  # what may stand between such a mark and the end of the line

_TABLE_SIZE = 0x20000  # planes 0 and 1; above lie rare ideographs (planes 2 and 3) and hardly anything else
_ALPHABETS_END = 0x590
_IDEOGRAPHS_END = 0x40000
_IDEOGRAPHIC = [  # written without blanks, a character about as much as a word: Han and kana
    *((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3021, 0x302A), (0x3031, 0x3036), (0x3041, 0x3097), (0x309D, 0x30FB)),
    *((0x30FC, 0x3130), (0x31F0, 0x3200), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00)),
]
_BY_CATEGORY = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE, "C": OTHER}


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint32 ``[characters]``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(codes: np.ndarray) -> np.ndarray:
    """The kind of each code point, uint8 of the same shape."""
    kinds = _kinds().take(codes, mode="clip")
    if codes.size and codes.max() >= _TABLE_SIZE:
        high = codes >= _TABLE_SIZE
        kinds[high] = np.where(codes[high] < _IDEOGRAPHS_END, HAN, OTHER)
    return kinds


def folded(codes: np.ndarray) -> np.ndarray:
    """Small letters for capital ones of the Latin, Greek, Cyrillic and Armenian alphabets, uint32 of the same shape."""
    table = _small()
    small = table.take(codes, mode="clip")
    if codes.size and codes.max() >= len(table):
        np.copyto(small, codes, where=codes >= len(table))
    return small


@cache
def _kinds() -> np.ndarray:
    categories = "".join(map(unicodedata.category, map(chr, range(_TABLE_SIZE))))
    majors = np.frombuffer(categories.encode("ascii"), np.uint8)[::2]
    by_major = np.full(128, OTHER, np.uint8)
    for major, kind in _BY_CATEGORY.items():
        by_major[ord(major)] = kind
    kinds = by_major[majors]
    for start, end in _IDEOGRAPHIC:
        kinds[start:end] = HAN
    kinds[[ord(mark) for mark in TERMINALS]] = TERMINAL
    kinds[[ord(blank) for blank in "\t\v\f\r\x1c\x1d\x1e\x1f\x85"]] = SPACE
    kinds[ord("\n")] = NEWLINE
    kinds.flags.writeable = False
    return kinds


@cache
def _small() -> np.ndarray:
    small = [lower if len(lower := chr(code).lower()) == 1 else chr(code) for code in range(_ALPHABETS_END)]
    table = code_points("".join(small)).copy()
    table.flags.writeable = False
    return table
