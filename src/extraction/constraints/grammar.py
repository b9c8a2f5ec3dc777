"""What an answer to a question may be: a grammar that engines enforce while they generate, or a JSON schema.

The grammar is in the dialect of Lark of `llguidance <https://github.com/guidance-ai/llguidance>`_: keys in the
question's order, one spelling of everything, bounded lists and texts, so that an answer ends. With the text given it is
extractive: every span is a substring of the text.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from src.errors import UserError
from src.extraction.constraints.closing import Closing
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
    quoted,
)
from src.extraction.schema import Question
from src.generation.engine import Grammar

# The characters of a JSON string, each in the spelling of `json.dumps`; a span has no white space at its ends.
CHARACTER = r'(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00[01][0-9a-f])'
OUTER = r'(?:[^"\\\x00-\x20\xa0\u3000]|\\["\\]|\\u00[01][0-9a-f])'
# What a span does not cut in two: runs of digits, and of letters of scripts that put a space between words and
# nothing else (Latin, Greek, Cyrillic); elsewhere each character is a unit.
UNIT = re.compile(r"[A-Za-zªµºÀ-ÖØ-öø-ʯ\u0300-\u03ff\u0400-\u052fḀ-ỿἀ-῿]+|[0-9]+|.", re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """How much an answer may hold, so that it ends.

    max_items: of each list: mentions of a type, relations, events, texts of one role, entities of a record type.
    max_span_chars: characters of each text.
    whole_words: spans of a given text begin and end where words do. A model then has fewer ways to go wrong, and the
        rest of a word that can only be one needs no thinking.
    """

    max_items: int = 32
    max_span_chars: int = 64
    whole_words: bool = True

    def __post_init__(self) -> None:
        for name in ("max_items", "max_span_chars"):
            if getattr(self, name) < 1:
                raise UserError(f"limits.{name}={getattr(self, name)} must be 1 or more")


def answer_grammar(question: Question, text: str | None = None, limits: Limits = Limits()) -> Grammar:
    """The grammar of the answers to a question. The answer that finds nothing is always among them.

    Args:
        text: that every span must be a substring of; None where spans are free.
    """
    closing = Closing(question, text)
    return Grammar(_Lark(text, limits).write(answer_shape(question)), closing, closing.longest)


def answer_schema(question: Question, limits: Limits = Limits()) -> dict[str, Any]:
    """The JSON schema of the answers to a question, for engines that know no grammars. Spans are free."""
    return _schema(answer_shape(question), limits)


class _Lark:
    """Writes the rules of shapes, each once."""

    def __init__(self, text: str | None, limits: Limits):
        self.text, self.limits = text, limits
        # white space alone is no span; lone surrogates are no text that could be written
        self.pieces = None if text is None else [p for p in re.split(r"[\ud800-\udfff]+", text) if p.strip()]
        self._names: dict[Shape, str] = {}
        self._rules: list[str] = []

    def write(self, shape: Shape) -> str:
        start = self._rule(shape)
        lines = ["%llguidance {}", f'start: " "? {start}', *self._rules, *self._spans()]
        return "\n".join(lines) + "\n"

    def _spans(self) -> list[str]:
        """Terminals of spans."""
        most = self.limits.max_span_chars
        bound = f"/{OUTER}/" if most == 1 else f"/{OUTER}(?:{CHARACTER}{{0,{most - 2}}}{OUTER})?/"
        lines = ['TEXT: "\\"" SPAN "\\""', f'TEXT_OR_NAN: "\\"" (SPAN | "{NAN}") "\\""']
        if self.pieces is None:
            return [*lines, f"SPAN: {bound}"]
        if not self.pieces:
            return [f'TEXT_OR_NAN: "\\"{NAN}\\""']
        for number, piece in enumerate(self.pieces):
            units = UNIT.findall(piece) if self.limits.whole_words else list(piece)
            chunks = [quoted(unit)[1:-1] for unit in units]  # as it is spelled, so that no escape is cut in two
            lines.append(f"PIECE_{number}: %regex " + json.dumps({"substring_chunks": chunks}))
        pieces = " | ".join(f"PIECE_{number}" for number in range(len(self.pieces)))
        return [*lines, f"SPAN: ({pieces}) & {bound}"]

    def _is_possible(self, shape: Shape) -> bool:
        """Whether there is anything of this shape: without text there is no span."""
        if self.pieces is None or self.pieces:
            return True
        if isinstance(shape, Text):
            return shape.may_be_nan or bool(shape.choices)
        if isinstance(shape, Fields) and not shape.optional:
            return all(self._is_possible(value) for _, value in shape.fields)
        return not (isinstance(shape, Listing) and shape.least)

    def _rule(self, shape: Shape) -> str:
        """The name of a shape's rule."""
        if isinstance(shape, Text) and not shape.choices:
            return "TEXT_OR_NAN" if shape.may_be_nan else "TEXT"
        if shape not in self._names:
            self._names[shape] = f"r{len(self._names)}"
            self._rules.append(f"{self._names[shape]}: {self._body(shape)}")
        return self._names[shape]

    def _body(self, shape: Shape) -> str:
        if isinstance(shape, Text):
            return " | ".join(_literal(quoted(choice)) for choice in (*shape.choices, *[NAN] * shape.may_be_nan))
        if isinstance(shape, OneOf):
            return " | ".join(self._rule(option) for option in shape.options if self._is_possible(option))
        if isinstance(shape, Listing):
            return self._repeated(shape.item, "[]", shape.least)
        if isinstance(shape, Records):
            return self._repeated(shape, "{}", 0)
        if shape.optional:
            return self._optional(shape)
        parts = []
        for place, (name, value) in enumerate(shape.fields):
            parts.append(_literal((", " if place else "{") + key(name)) + " " + self._rule(value))
        return " ".join([*parts, '"}"']) if parts else '"{}"'

    def _repeated(self, item: Shape, brackets: str, least: int) -> str:
        opening, closing = _literal(brackets[0]), _literal(brackets[1])
        parts = (Text(), item.value) if isinstance(item, Records) else (item,)
        if not all(self._is_possible(part) for part in parts):
            return f"{opening} {closing}"
        one = ' ": " '.join(map(self._rule, parts))
        most = self.limits.max_items
        more = f'(", " {one}){{0,{most - 1}}}' if most > 1 else ""  # llguidance takes no {0,0}
        return f"{opening} {one} {more} {closing}" if least else f"{opening} ({one} {more})? {closing}"

    def _optional(self, shape: Fields) -> str:
        """Any of the fields in their order: after each, one of those behind it or the end."""
        if not all(self._is_possible(value) for _, value in shape.fields):
            return '"{}"'
        base = self._names[shape]
        after, first = ['"}"'], ['"}"']
        for place in range(len(shape.fields) - 1, -1, -1):
            name, value = shape.fields[place]
            self._rules.append(f"{base}_{place}: {' | '.join(after)}")
            first.append(f"{_literal(key(name))} {self._rule(value)} {base}_{place}")
            after.append(f"{_literal(', ' + key(name))} {self._rule(value)} {base}_{place}")
        return f'"{{" ({" | ".join(first)})'


def _literal(text: str) -> str:
    """A literal in Lark."""
    return json.dumps(text, ensure_ascii=False)


def _schema(shape: Shape, limits: Limits) -> dict[str, Any]:
    if isinstance(shape, Text):
        if shape.choices:
            return {"enum": [*shape.choices, *[NAN] * shape.may_be_nan]}
        return {"type": "string", "minLength": 1, "maxLength": limits.max_span_chars}
    if isinstance(shape, Listing):
        items = _schema(shape.item, limits)
        least = {"minItems": shape.least} if shape.least else {}
        return {"type": "array", "items": items, **least, "maxItems": limits.max_items}
    if isinstance(shape, OneOf):
        return {"anyOf": [_schema(option, limits) for option in shape.options]}
    if isinstance(shape, Records):
        return {"type": "object", "additionalProperties": _schema(shape.value, limits)}
    return {
        "type": "object",
        "properties": {name: _schema(value, limits) for name, value in shape.fields},
        "required": [] if shape.optional else [name for name, _ in shape.fields],
        "additionalProperties": False,
    }
