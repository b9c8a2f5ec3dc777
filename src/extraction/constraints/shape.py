"""The shape of a question's answer, which `grammar` writes as a grammar and `closing` ends.

The forms are those of `src.extraction.formats.answers`, spelled as ``json.dumps`` does: one space after a comma or
colon, keys in the question's order.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from src.extraction.schema import EventType, Question, RecordType, Role, Task

NAN = "NAN"  # nothing, where a text must stand; readers of answers drop it


@dataclass(frozen=True)
class Text:
    """A span. ``may_be_nan``: or ``"NAN"``. ``choices``: one of these, and nothing else."""

    may_be_nan: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """A list of at least ``least`` items."""

    item: "Shape"
    least: int = 0


@dataclass(frozen=True)
class Fields:
    """An object with these keys in this order. ``optional``: any of them may be left out."""

    fields: tuple[tuple[str, "Shape"], ...]
    optional: bool = False


@dataclass(frozen=True)
class Records:
    """An object whose keys are spans."""

    value: "Shape"


@dataclass(frozen=True)
class OneOf:
    """One of several shapes, the shortest first."""

    options: tuple["Shape", ...]


Shape = Text | Listing | Fields | Records | OneOf


def answer_shape(question: Question) -> Shape:
    """The shape of a question's answer."""
    fields: dict[str, Shape] = {}
    for element in question.elements:
        if question.task in (Task.NER, Task.EET):
            fields[element.name] = Listing(Text())
        elif question.task in (Task.RE, Task.SPO):
            fields[element.name] = Listing(Fields((("subject", Text()), ("object", Text()))))
        elif isinstance(element, EventType):
            fields[element.name] = Listing(_event(question, element))
        elif isinstance(element, RecordType):
            value = OneOf((Text(), Listing(Text(), least=1)))
            fields[element.name] = Records(Fields(tuple((n, value) for n in _names(element.attributes)), optional=True))
    return Fields(tuple(fields.items()))


def key(name: str) -> str:
    """A key as it stands in an answer, with its colon."""
    return f"{quoted(name)}: "


def quoted(text: str) -> str:
    """A text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def shortest(shape: Shape) -> str:
    """The shortest answer of a shape, with as little in it as may be."""
    if isinstance(shape, Text):
        return quoted(min(shape.choices, key=len) if shape.choices else NAN)
    if isinstance(shape, Listing):
        return "[" + ", ".join([shortest(shape.item)] * shape.least) + "]"
    if isinstance(shape, Fields) and not shape.optional:
        return "{" + ", ".join(key(name) + shortest(value) for name, value in shape.fields) + "}"
    return shortest(shape.options[0]) if isinstance(shape, OneOf) else "{}"


def longest_rest(shape: Shape) -> int:
    """Bytes that `src.extraction.constraints.closing` adds at most to a part of this shape that was begun."""
    if isinstance(shape, Text):
        return max([len('\\u0000"'), *(_size(quoted(choice)) for choice in shape.choices)])
    if isinstance(shape, OneOf):
        return max(map(longest_rest, shape.options))
    if isinstance(shape, Listing):
        return len("[, ]") + longest_rest(shape.item)
    if isinstance(shape, Records):
        return len("{, : }") + longest_rest(Text()) + longest_rest(shape.value)
    rests, after = [_size(shortest(shape))], len("}")
    for name, value in reversed(shape.fields):
        begun = len(", ") + _size(key(name))
        rests.append(begun + longest_rest(value) + after)
        after += 0 if shape.optional else begun + _size(shortest(value))
    return max(rests)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _event(question: Question, element: EventType) -> Shape:
    """A trigger and arguments; of EEA answers two forms without the trigger too, which checkpoints were trained on."""
    value = OneOf((Text(may_be_nan=True), Listing(Text(), least=1)))
    roles = Fields(tuple((name, value) for name in _names(element.roles)))
    arguments = OneOf((Fields(()), roles)) if roles.fields else Fields(())
    trigger = Text(may_be_nan=True, choices=tuple(dict.fromkeys(question.triggers.get(element.name, ()))))
    event = Fields((("trigger", trigger), ("arguments", arguments)))
    if question.task is not Task.EEA:
        return event
    options: list[Shape] = [Fields((("arguments", arguments),)), event]
    if roles.fields and not {"trigger", "arguments"} & set(_names(element.roles)):
        options.append(roles)
    return OneOf(tuple(options))


def _names(roles: Iterable[Role]) -> list[str]:
    return list(dict.fromkeys(role.name for role in roles))
