"""The shortest end of an answer that was begun, so that it is whole however few tokens are left.

A small machine reads the answer along the shape that its question gives it. Where the answer ends, what is still open
says what must follow: a text that was begun is closed as it is, one that was not is ``"NAN"``, which readers of answers
drop, and lists take no more items.
"""

import json
import re
from typing import NoReturn

from src.extraction.constraints.shape import (
    NAN,
    Fields,
    Listing,
    OneOf,
    Records,
    Shape,
    Text,
    answer_shape,
    key,
    longest_rest,
    quoted,
    shortest,
)
from src.extraction.schema import Question

_BODY = re.compile(r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_BEGUN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")


class Closing:
    """Completes answers to a question.

    Args:
        question: asked.
        text: that spans must come from; None where they need not.

    Attributes:
        longest: bytes of what it adds at most.
    """

    def __init__(self, question: Question, text: str | None = None):
        self._shape, self._text = answer_shape(question), text
        self.longest = longest_rest(self._shape)

    def __call__(self, answer: str) -> str:
        """What must follow, "" where nothing needs to. Raises `ValueError` for what begins no answer."""
        try:
            end = self._read(self._shape, answer, 1 if answer.startswith(" ") else 0)
        except _Ended as ended:
            return ended.rest
        except _Mismatch as error:
            raise ValueError(f"this is not the beginning of an answer: {answer[:200]!r}") from error
        if answer[end:].strip():
            raise ValueError(f"something follows the answer: {answer[end:][:200]!r}")
        return ""

    def _read(self, part: "Shape | str", answer: str, at: int) -> int:
        """Read a shape or a literal; the place after it. Raises `_Ended` where the answer ends before that."""
        if isinstance(part, str):
            return _literal(part, answer, at)
        if at >= len(answer):
            raise _Ended(shortest(part))
        if isinstance(part, Text):
            return self._text_end(part, answer, at)
        if isinstance(part, Listing):
            return self._repeated([part.item], "[]", part.least, answer, at)
        if isinstance(part, Records):
            return self._repeated([Text(), ": ", part.value], "{}", 0, answer, at)
        if isinstance(part, OneOf):
            return self._one_of([[option] for option in part.options], answer, at)
        if part.optional:
            return self._optional(part, answer, at)
        parts: list[Shape | str] = []
        for name, value in part.fields:
            parts += [(", " if parts else "{") + key(name), value]
        return self._sequence([*parts, "}"] if parts else ["{}"], answer, at)

    def _sequence(self, parts: "list[Shape | str]", answer: str, at: int) -> int:
        for place, part in enumerate(parts):
            try:
                at = self._read(part, answer, at)
            except _Ended as ended:
                rest = (later if isinstance(later, str) else shortest(later) for later in parts[place + 1 :])
                raise _Ended(ended.rest + "".join(rest)) from None
        return at

    def _one_of(self, options: "list[list[Shape | str]]", answer: str, at: int) -> int:
        """The first option that the answer follows; where it ends within several, the one with the shortest rest."""
        rests = []
        for option in options:
            try:
                return self._sequence(option, answer, at)
            except _Mismatch:
                continue
            except _Ended as ended:
                rests.append(ended.rest)
        if not rests:
            raise _Mismatch
        raise _Ended(min(rests, key=len))

    def _repeated(self, item: "list[Shape | str]", brackets: str, least: int, answer: str, at: int) -> int:
        """A list, or an object of records; items are read in a loop, as there may be many."""
        closing = brackets[1]
        at = _literal(brackets[0], answer, at)
        count = 0
        while True:
            if at >= len(answer):
                missing = "" if count >= least else "".join(p if isinstance(p, str) else shortest(p) for p in item)
                raise _Ended(missing + closing)
            if count >= least and answer[at] == closing:
                return at + 1
            try:
                at = self._sequence([", ", *item] if count else item, answer, at)
            except _Ended as ended:
                raise _Ended(ended.rest + closing) from None
            count += 1

    def _optional(self, shape: Fields, answer: str, at: int) -> int:
        at = _literal("{", answer, at)
        fields, first = list(shape.fields), True
        while True:
            if at >= len(answer):
                raise _Ended("}")
            if answer[at] == "}":
                return at + 1
            comma = "" if first else ", "
            while fields:
                name, value = fields.pop(0)
                begin = comma + key(name)
                if answer.startswith(begin, at):
                    break
                if begin.startswith(answer[at:]):  # the answer ends within a key
                    raise _Ended(begin[len(answer) - at :] + shortest(value) + "}")
            else:
                raise _Mismatch
            try:
                at = self._read(value, answer, at + len(begin))
            except _Ended as ended:
                raise _Ended(ended.rest + "}") from None
            first = False

    def _text_end(self, shape: Text, answer: str, at: int) -> int:
        if shape.choices:
            choices = [*shape.choices, NAN] if shape.may_be_nan else shape.choices
            return self._one_of([[quoted(choice)] for choice in choices], answer, at)
        at = _literal('"', answer, at)
        body = _BODY.match(answer, at)
        assert body is not None  # it may be empty
        end = body.end()
        if end < len(answer):
            if answer[end] == '"':
                return end + 1
            if not _BEGUN_ESCAPE.fullmatch(answer, end):
                raise _Mismatch
            raise _Ended(self._escape_end(body.group(), answer[end:]) + '"')
        begun = body.group()
        if not begun or (shape.may_be_nan and NAN.startswith(begun)):
            raise _Ended(NAN[len(begun) :] + '"')
        raise _Ended('"')

    def _escape_end(self, body: str, begun: str) -> str:
        """The rest of an escape that was begun after ``body``: as the text goes on, where it must come from there."""
        if self._text is None:
            escape = "\\\\" if len(begun) == 1 else "\\u001f"
            return escape[len(begun) :]
        span: str = json.loads(f'"{body}"')
        place = self._text.find(span)
        while 0 <= place < len(self._text) - len(span):
            escape = quoted(self._text[place + len(span)])[1:-1]
            if escape.startswith(begun):
                return escape[len(begun) :]
            place = self._text.find(span, place + 1)
        raise _Mismatch


class _Ended(Exception):
    """The answer ended here; ``rest`` completes what was begun."""

    def __init__(self, rest: str):
        self.rest = rest


class _Mismatch(Exception):
    """The answer does not follow the shape."""


def _literal(expected: str, answer: str, at: int) -> int:
    if answer.startswith(expected, at):
        return at + len(expected)
    if expected.startswith(answer[at:]):
        raise _Ended(expected[len(answer) - at :])
    _mismatch()


def _mismatch() -> NoReturn:
    raise _Mismatch
