"""Read almost-JSON as models write it, in one pass and without recursion.

Taken as they are meant: quotes of any kind, full-width punctuation, raw control characters in strings, Python's and
JavaScript's words for nothing, true and false, bare words, trailing and missing commas, quotes inside a string that no
backslash marks, brackets closed in the wrong order. A text that stops, or stops making sense, gives what was read
completely before: a string without its end is dropped, so that no value is half of one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 32
MAX_BARE = 200  # characters of a word without quotes

CLOSERS = {
    '"': '"',
    "'": "'",
    "`": "`",
    "“": '”“"',
    "”": '”"',
    "‘": "’‘'",
    "’": "’'",
    "＂": "＂",
    "「": "」",
    "『": "』",
}
COLONS, COMMAS = ":：", ",，、;；"
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
WORDS = {
    **dict.fromkeys(("null", "none", "nan", "undefined", "nil"), None),
    "true": True,
    "false": False,
}
_SPACE = re.compile(r"[\s\ufeff\x00-\x1f]*")
_QUOTES = "".join(CLOSERS)
_BARE_KEY = re.compile(
    rf"[{_QUOTES}]?(\w[^\r\n{COLONS}{COMMAS}\[\]{{}}［］｛｝{_QUOTES}]{{0,{MAX_BARE}}})[{_QUOTES}]?\s{{0,9}}[{COLONS}]"
)
_BARE_VALUE = re.compile(
    rf"[^\r\n{COLONS}{COMMAS}\[\]{{}}［］｛｝\"“”][^\r\n{COMMAS}\[\]{{}}［］｛｝\"“”]{{0,{MAX_BARE}}}"
)
_NUMBER = re.compile(r"-?\d{1,300}(\.\d{1,300})?([eE][+-]?\d{1,3})?")
_START = rf"[{_QUOTES}\[{{［｛\]}}］｝]|-?\d|null|true|false|none|nan|$"
# what may follow a string's end: its colon or a bracket, the end of its brackets, a comma and then another value or
# key, or without a comma another string
_AFTER = re.compile(
    rf"[\s\x00-\x1f]*([{COLONS}\]}}［］｝{{\[]|$|[{COMMAS}][\s\x00-\x1f]*({_START}))|[\s\x00-\x1f]+[{_QUOTES}]",
    re.IGNORECASE,
)
_STOPS = {opener: re.compile(rf"[{closers}\\]") for opener, closers in CLOSERS.items()}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)  # \x is Python's


class _Unfinished(Exception):
    """The text ends, or goes on as no JSON does."""


@dataclass
class _Open:
    """A bracket that is not closed yet: its value so far and, in an object, the key that waits for a value."""

    value: list[Any] | dict[str, Any]
    key: str | None = None

    def add(self, value: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is not None:
            self.value[self.key] = value
            self.key = None

    def open(self, kind: "type[list[Any]] | type[dict[str, Any]]") -> "_Open":
        """The list or object that begins here; where its key has one already, that goes on."""
        before = self.value.get(self.key) if isinstance(self.value, dict) and self.key is not None else None
        value = before if isinstance(before, kind) else kind()
        self.add(value)
        return _Open(value)


def read_object(text: str, start: int) -> tuple[dict[str, Any], bool]:
    """Read the object whose members begin at ``start``, behind its bracket.

    Returns:
        its members, and whether its closing bracket was reached; if not, the members are those that were complete.
    """
    root: dict[str, Any] = {}
    stack = [_Open(root)]
    position = start
    try:
        while stack:
            position = _step(text, _skip(text, position), stack)
    except _Unfinished:
        for inner, outer in zip(reversed(stack), reversed(stack[:-1]), strict=False):
            if not inner.value and isinstance(outer.value, list):
                outer.value.pop()
        return root, False
    return root, True


def merged(members: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these members: lists and objects of equal keys become one, of other values the last is taken.

    Models name an entity again to go on about it, and a type to list more of it.
    """
    found: dict[str, Any] = {}
    for key, value in members:
        before = found.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _join(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            before.extend(value)
        else:
            found[key] = value
    return found


def _join(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Put what the second object of a key holds into the first; unlike values of one of their keys are listed."""
    for key, value in second.items():
        before = first.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _join(before, value)
        elif isinstance(before, list):  # in place, so that many repeats take no longer than they are
            before.extend(value if isinstance(value, list) else [value])
        elif before is None or before == value:
            first[key] = value
        else:
            first[key] = [before, *(value if isinstance(value, list) else [value])]


def number(word: str) -> float | int | str:
    """The number that a word spells; the word itself where the number would be spelled otherwise, as 1.50 and 007."""
    value = float(word) if set(word) & set(".eE") else int(word)
    return value if str(value) == word else word


def _step(text: str, position: int, stack: list[_Open]) -> int:
    """Read one bracket, comma, key or value at ``position``; returns the place after it."""
    letter = text[position : position + 1]
    top = stack[-1]
    if not letter:
        raise _Unfinished
    if letter in COMMAS:
        return position + 1
    if letter in "]］}｝":
        _close(stack, dict if letter in "}｝" else list)
        return position + 1
    if isinstance(top.value, dict) and top.key is None:
        top.key, position = _key(text, position)
        return position
    if letter in "[［{｛":
        if len(stack) >= MAX_DEPTH:
            raise _Unfinished
        stack.append(top.open(list if letter in "[［" else dict))
        return position + 1
    value, position = _scalar(text, position)
    colon = _skip(text, position)
    if isinstance(value, str) and isinstance(top.value, list) and text[colon : colon + 1] in tuple(COLONS):
        _close(stack, list)  # a key inside a list: the list's end is missing
        stack[-1].key = value
        return colon + 1
    top.add(value)
    return position


def _close(stack: list[_Open], kind: type) -> None:
    """Close the innermost open bracket of a kind and those inside it; one that was never opened is passed over."""
    if any(isinstance(each.value, kind) for each in stack):
        while not isinstance(stack.pop().value, kind):
            pass


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _key(text: str, position: int) -> tuple[str, int]:
    """The key at ``position`` and the place after its colon; a quote of it may be missing."""
    if text[position] in CLOSERS:
        window = text[position : position + 2 * MAX_BARE]
        try:
            key, length = _string(window, 0)
        except _Unfinished:
            length = 0
        colon = _skip(window, length)
        if length and window[colon : colon + 1] in (*COLONS, *"[{"):  # or a bracket, where the colon is missing
            return key, position + colon + (window[colon] in COLONS)
    found = _BARE_KEY.match(text, position)
    if found is None:
        raise _Unfinished
    return found[1].strip(), found.end()


def _scalar(text: str, position: int) -> tuple[Any, int]:
    if text[position] in CLOSERS:
        return _string(text, position)
    found = _BARE_VALUE.match(text, position)
    if found is None or found.end() == len(text):  # at the end of the text the word may go on
        raise _Unfinished
    word = found[0].strip()
    if word.lower() in WORDS:
        return WORDS[word.lower()], found.end()
    if _NUMBER.fullmatch(word):
        return number(word), found.end()
    return word, found.end()


def _string(text: str, position: int) -> tuple[str, int]:
    """The string that opens at ``position``: it ends at a quote of its kind after which JSON can go on."""
    stop = _STOPS[text[position]]
    parts = []
    position += 1
    while found := stop.search(text, position):
        parts.append(text[position : found.start()])
        position = found.end()
        if found[0] != "\\":
            if _AFTER.match(text, position):
                return _joined("".join(parts)), position
            parts.append(found[0])
        elif escape := _ESCAPE.match(text, found.start()):
            parts.append(_unescaped(escape[1]))
            position = escape.end()
    raise _Unfinished


def _unescaped(escape: str) -> str:
    """What stands behind a backslash; one that escapes nothing is kept, as in the path or formula it is part of."""
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return ESCAPES.get(escape, escape if escape in "\"'/\\`“”‘’" else "\\" + escape)


def _joined(text: str) -> str:
    """Pairs of surrogates, which two ``\\uXXXX`` may have given, as the characters they stand for."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
