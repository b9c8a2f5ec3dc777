"""Where sentences end, as byte offsets into a text: nothing is copied, so nothing can be lost.

A border lies right after the mark that ends a sentence and its closing quotes or brackets, before the blank that
belongs to the next word: that is where tokenizers put their borders too. Line ends belong to what they end.

- zh: after 。！？；…, after . ! ? before a blank, and after every line.
- en: after . ! ? before a blank, unless the next word is written small or the dot belongs to an abbreviation, an
  initial or a list number; after blank lines; before a list item. A line break inside a paragraph ends nothing, because
  prose is often wrapped.
- code: after every line.
"""

import re
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
_LAST_WORD = re.compile(rb"(?:^|(?<=[^A-Za-z0-9.]))(?:[A-Za-z.]+|\d{1,3})$")
_WORD_REACH = 12  # bytes before a dot in which an abbreviation must lie


def sentence_ends(raw: bytes, language: Language) -> np.ndarray:
    """Byte offsets at which the sentences of a UTF-8 text end, rising, the last one its length; int64 ``[sentences]``.

    Raises:
        UserError: an unknown language.
    """
    if language not in get_args(Language):
        raise UserError(f"language '{language}' has no sentence rules: choose one of {', '.join(get_args(Language))}")
    if not raw:
        return np.zeros(0, dtype=np.int64)
    if language == "zh":
        ends = [match.end() for match in _CHINESE.finditer(raw.decode("utf-8"))]
        ends = _byte_offsets(raw)[ends].tolist() if ends else []
    elif language == "en":
        ends = [match.end() for match in _ENGLISH.finditer(raw) if _ends_sentence(raw, match)]
    else:
        ends = [match.end() for match in _CODE.finditer(raw)]
    if not ends or ends[-1] != len(raw):
        ends.append(len(raw))
    return np.array(ends, dtype=np.int64)


def _byte_offsets(raw: bytes) -> np.ndarray:
    """Byte offset of each character and of the end, int64 ``[characters + 1]``."""
    starts = np.flatnonzero((np.frombuffer(raw, dtype=np.uint8) & 0xC0) != 0x80)
    return np.append(starts, len(raw))


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
