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


def _any_of(characters: str) -> bytes:
    """Pattern over UTF-8 bytes for one of these characters."""
    return b"(?:" + b"|".join(re.escape(character.encode()) for character in characters) + b")"


_LINE_END = rb"(?:\r\n?|\n|\xe2\x80[\xa8\xa9])"
_CLOSERS = _any_of("\"')]”’」』）》】〕") + b"*"
_BLANK_LINES = rb"\r?\n(?:[ \t]*\r?\n)+"
_LIST_ITEM = rb"\r?\n(?=[ \t]*(?:[-*+#>|=~]|\xe2\x80\xa2|\.\. |\d{1,3}[.)][ \t]))"

_PATTERNS = {
    "code": re.compile(_LINE_END),
    "zh": re.compile(
        b"(?:" + _any_of("。！？；…") + b"+" + _CLOSERS + rb"|[.!?]+" + _CLOSERS + rb"(?=\s))"
        rb"(?:[ \t]*" + _LINE_END + b")?|" + _LINE_END
    ),
    "en": re.compile(
        rb"(?P<mark>[.!?]+)" + _CLOSERS + rb"(?:(?P<paragraph>[ \t]*" + _BLANK_LINES + rb")"
        rb"|(?=\s)(?!\s+[\"'(\[]?[a-z]))|" + _BLANK_LINES + b"|" + _LIST_ITEM
    ),
}
_LAST_WORD = re.compile(rb"(?:^|(?<=[^A-Za-z0-9.]))(?:[A-Za-z.]+|\d{1,3})$")
_WORD_REACH = 12  # bytes before a dot in which an abbreviation must lie


def sentence_ends(raw: bytes, language: Language) -> np.ndarray:
    """Byte offsets at which the sentences of a UTF-8 text end, rising, the last one its length; int64 ``[sentences]``.

    Raises:
        UserError: an unknown language.
    """
    pattern = _PATTERNS.get(language)
    if pattern is None:
        raise UserError(f"language '{language}' has no sentence rules: choose one of {', '.join(get_args(Language))}")
    if not raw:
        return np.zeros(0, dtype=np.int64)
    if language == "en":
        ends = [match.end() for match in pattern.finditer(raw) if _ends_sentence(raw, match)]
    else:
        ends = [match.end() for match in pattern.finditer(raw)]
    if not ends or ends[-1] != len(raw):
        ends.append(len(raw))
    return np.array(ends, dtype=np.int64)


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
