"""Where sentences end, as byte offsets into a text: nothing is copied, so nothing can be lost.

A border lies right after the mark that ends a sentence and its closing quotes or brackets, before the blank that
belongs to the next word: that is where tokenizers put their borders too. Line ends belong to what they end.

- zh: after 。！？；…, after . ! ? before a blank, and after every line.
- en: after . ! ? before a blank, unless the next word is written small or the dot belongs to an abbreviation, an
  initial or a list number; after blank lines; before a list item. A line break inside a paragraph ends nothing, because
  prose is often wrapped.
- code: after every line.

Who cuts a text into pieces needs the ends near its cuts only. `SentenceEnds` finds them from the bytes around: a border
is decided by marks, closing quotes and blanks, so behind a plain letter the rules know nothing of what came before.
"""

import re
from bisect import bisect_right
from typing import Literal, get_args

import numpy as np

from src.errors import UserError

Language = Literal["zh", "en", "code"]

# After these the dot is never an end: a name, a number or an example follows.
ABBREVIATIONS = frozenset(
    b"""
    adm al approx art assoc ave blvd brig ca capt cf ch cmdr co col corp cpl dept det dr ed eds eg eq eqs esp est etc ex
    fig figs fr ft gen gov hon ie inc incl jr lt ltd maj messrs min misc mlle mme mr mrs ms mt no nos op orig p par pl
    pp prof pt ref refs rep resp rev sec sen sgt sr st supt tab trans univ viz vol vols vs
    jan feb apr jun jul aug sep sept oct nov dec
    """.split()
)


# Chinese is searched as characters, where a class of wide marks is one step; English and code as bytes.
_WIDE_LINE_END = r"(?:\r\n?|[\n\u2028\u2029])"
_WIDE_CLOSERS = r"[\"')\]”’」』）》】〕]*"
_CHINESE = re.compile(
    r"(?=[。！？；….!?\r\n\u2028\u2029])(?:"
    rf"(?:[。！？；…]+{_WIDE_CLOSERS}|[.!?]+{_WIDE_CLOSERS}(?=\s))(?:[ \t]*{_WIDE_LINE_END})?|{_WIDE_LINE_END})"
)

_CODE = re.compile(rb"\r\n?|\n|\xe2\x80[\xa8\xa9]")

_BLANK_LINES = rb"\r?\n(?:[ \t]*\r?\n)+"
_LIST_ITEM = rb"\r?\n(?=[ \t]*(?:[-*+#>|=~]|\xe2\x80\xa2|\.\. |\d{1,3}[.)][ \t]))"
_CLOSERS = rb"(?:[\"')\]]|\xe2\x80[\x99\x9d])*"
_ENGLISH = re.compile(
    rb"(?=[.!?\r\n])(?:(?P<mark>[.!?]+)" + _CLOSERS + rb"(?:(?P<paragraph>[ \t]*" + _BLANK_LINES + rb")"
    rb"|(?=\s)(?!\s+[\"'(\[]?[a-z]))|" + _BLANK_LINES + rb"|" + _LIST_ITEM + rb")"
)
# What a border can be made of or depends on. Bytes, so that a letter that shares one with a wide mark counts as well.
_DECISIVE: dict[str, bytes] = {
    "zh": "。！？；….!?\"')]”’」』）》】〕 \t\r\n\u2028\u2029".encode(),
    "en": " \t\n\r\f\v.!?\"')](['’”•-*+#>|=~0123456789".encode(),
    "code": "\r\n\u2028\u2029".encode(),
}
REACH = 512  # bytes beside a stretch of text in which a plain letter must be found

_LAST_WORD = re.compile(rb"(?:^|(?<=[^A-Za-z0-9.]))(?:[A-Za-z.]+|\d{1,3})$")
_WORD_REACH = 12  # bytes before a dot in which an abbreviation must lie


def sentence_ends(raw: bytes, language: Language) -> np.ndarray:
    """Byte offsets at which the sentences of a UTF-8 text end, rising, the last one its length; int64 ``[sentences]``.

    Raises:
        UserError: an unknown language.
    """
    _check_language(language)
    if not raw:
        return np.zeros(0, dtype=np.int64)
    ends = _find(raw, language, 0, len(raw))
    if not ends or ends[-1] != len(raw):
        ends.append(len(raw))
    return np.array(ends, dtype=np.int64)


class SentenceEnds:
    """The same ends, found only where somebody asks for them.

    Raises:
        UserError: an unknown language.
    """

    def __init__(self, raw: bytes, language: Language) -> None:
        _check_language(language)
        self._raw = raw
        self._language = language
        self._decisive = _DECISIVE[language]
        self._all: list[int] | None = None

    def between(self, low: int, high: int) -> list[int]:
        """The sentence ends in ``low < end <= high``, rising; the end of the text is not one of them."""
        high = min(high, len(self._raw) - 1)
        if self._all is None:
            begin, stop = self._begin(low), self._stop(high)
            if begin is not None and stop is not None:
                return [end for end in _find(self._raw, self._language, begin, stop) if low < end <= high]
            self._all = sentence_ends(self._raw, self._language).tolist()  # marks and blanks for pages: search it once
        return self._all[bisect_right(self._all, low) : bisect_right(self._all, high)]

    def _begin(self, position: int) -> int | None:
        """An offset up to here that no border spans: the text's, or the one behind a plain letter."""
        while 0 < position < len(self._raw) and self._raw[position] & 0xC0 == 0x80:  # to the start of a letter
            position -= 1
        reach = max(0, position - REACH)
        plain = reach + len(self._raw[reach:position].rstrip(self._decisive))
        while reach < plain < position and self._raw[plain] & 0xC0 == 0x80:  # to the end of the letter
            plain += 1
        return plain if plain > reach or reach == 0 else None

    def _stop(self, position: int) -> int | None:
        """An offset from here on behind which nothing decides about the borders up to here."""
        near = self._raw[position : position + REACH]
        plain = len(near) - len(near.lstrip(self._decisive))
        if plain == len(near):
            return len(self._raw) if position + REACH >= len(self._raw) else None
        stop = position + plain + 1
        while stop < len(self._raw) and self._raw[stop] & 0xC0 == 0x80:
            stop += 1
        return stop


def _check_language(language: str) -> None:
    if language not in get_args(Language):
        raise UserError(f"language '{language}' has no sentence rules: choose one of {', '.join(get_args(Language))}")


def _find(raw: bytes, language: Language, begin: int, stop: int) -> list[int]:
    """The ends that the rules find in a stretch of the text; whole characters for Chinese."""
    if language == "zh":
        return _find_chinese(raw[begin:stop].decode("utf-8"), begin)
    if language == "en":
        return [match.end() for match in _ENGLISH.finditer(raw, begin, stop) if _ends_sentence(raw, match)]
    return [match.end() for match in _CODE.finditer(raw, begin, stop)]


def _find_chinese(text: str, offset: int) -> list[int]:
    """Byte offsets of the ends in a text that begins at a byte offset."""
    ends = []
    done = 0
    for match in _CHINESE.finditer(text):
        offset += len(text[done : match.end()].encode("utf-8"))
        done = match.end()
        ends.append(offset)
    return ends


def _ends_sentence(raw: bytes, match: re.Match[bytes]) -> bool:
    """Whether a mark ends an English sentence; only a single dot outside a paragraph's end is in doubt."""
    if match["mark"] != b"." or match["paragraph"] is not None:
        return True
    dot = match.start()
    found = _LAST_WORD.search(raw[max(0, dot - _WORD_REACH) : dot])
    if found is None:
        return True
    word = found[0]
    if word.isdigit():  # "1." at the head of a line numbers it
        before = raw[max(0, dot - _WORD_REACH) : dot - len(word)]
        return bool(before.rpartition(b"\n")[2].strip()) or (dot > _WORD_REACH and b"\n" not in before)
    initial = len(word) == 1 and word.isupper()
    return not (initial or b"." in word or word.lower() in ABBREVIATIONS)
