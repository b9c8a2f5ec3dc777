"""What extraction finds: entities, relations and events with their places in the text; and a text with its items.

Gold annotations and predictions have the same types. The JSON form is IEPile's "sample" record (arXiv 2402.14710) with
offsets added: ``entity`` [{entity, entity_type, start, end}], ``relation`` [{head, relation, tail, …}], ``event``
[{event_trigger, event_type, arguments: [{argument, role}]}].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.errors import UserError
from src.knowledge.triples import Span, Triple

Relation = Triple  # a relation that a text states is a triple whose ends have spans

__all__ = ["Argument", "Entity", "Event", "Items", "Relation", "Sample", "Span"]


@dataclass(frozen=True)
class Entity:
    """A mention of an entity. ``score``: the model's probability of its text."""

    text: str
    type: str
    span: Span | None = None
    score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"entity": self.text, "entity_type": self.type, **_place(self.span, self.score)}


@dataclass(frozen=True)
class Argument:
    """What plays a role in an event."""

    text: str
    role: str
    span: Span | None = None
    score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"argument": self.text, "role": self.role, **_place(self.span, self.score)}


@dataclass(frozen=True)
class Event:
    """An event: its type, the word that says that it happens ("" where none is named), and its arguments."""

    type: str
    trigger: str = ""
    arguments: tuple[Argument, ...] = ()
    span: Span | None = None
    score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        arguments = [argument.as_dict() for argument in self.arguments]
        fields = {"event_trigger": self.trigger, "event_type": self.type, "arguments": arguments}
        return fields | _place(self.span, self.score)


@dataclass(frozen=True)
class Items:
    """Everything found in, or annotated on, one text."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    events: tuple[Event, ...] = ()

    def __add__(self, other: "Items") -> "Items":
        return Items(self.entities + other.entities, self.relations + other.relations, self.events + other.events)

    def __len__(self) -> int:
        return len(self.entities) + len(self.relations) + len(self.events)

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """The kinds that there are any of, in the form of a sample record."""
        kinds: dict[str, Sequence[Any]] = {"entity": self.entities, "relation": self.relations, "event": self.events}
        return {kind: [item.as_dict() for item in items] for kind, items in kinds.items() if items}


@dataclass(frozen=True)
class Sample:
    """A text and its items.

    id: unique within its file.
    source: name of the data set.
    category: topic of an InstructIE record, else empty.
    """

    id: str
    text: str
    items: Items = Items()
    source: str = ""
    category: str = ""

    def as_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"id": self.id, "text": self.text}
        fields |= {"source": self.source} if self.source else {}
        fields |= {"cate": self.category} if self.category else {}
        return fields | self.items.as_dict()


def items_from_record(record: Mapping[str, Any]) -> Items:
    """The items of a sample record; offsets are taken where they are given. Raises `UserError` for a wrong shape."""
    try:
        return Items(
            tuple(
                Entity(_text(entry, "entity"), _text(entry, "entity_type"), _span(entry), entry.get("score"))
                for entry in record.get("entity") or ()
            ),
            tuple(map(_relation, record.get("relation") or ())),
            tuple(map(_event, record.get("event") or ())),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        known = "entity {entity, entity_type}, relation {head, relation, tail}, event {event_trigger, event_type, …}"
        raise UserError(f"a record's labels are not as expected ({error!r}): they must be lists of {known}") from error


def _relation(entry: Mapping[str, Any]) -> Relation:
    return Relation(
        _text(entry, "head"),
        _text(entry, "relation"),
        _text(entry, "tail"),
        _text(entry, "head_type") if entry.get("head_type") else "",
        _text(entry, "tail_type") if entry.get("tail_type") else "",
        _numbers(*entry["head_span"]) if entry.get("head_span") else None,
        _numbers(*entry["tail_span"]) if entry.get("tail_span") else None,
        entry.get("score"),
    )


def _event(entry: Mapping[str, Any]) -> Event:
    arguments = (
        Argument(_text(each, "argument"), _text(each, "role"), _span(each), each.get("score"))
        for each in entry.get("arguments") or ()
    )
    trigger = _text(entry, "event_trigger") if entry.get("event_trigger") else ""
    return Event(_text(entry, "event_type"), trigger, tuple(arguments), _span(entry), entry.get("score"))


def _text(entry: Mapping[str, Any], key: str) -> str:
    if not isinstance(entry[key], str):
        raise ValueError(f"'{key}' is {entry[key]!r}, not text")
    return str(entry[key])


def _span(entry: Mapping[str, Any]) -> Span | None:
    return _numbers(entry["start"], entry["end"]) if entry.get("start") is not None else None


def _numbers(start: Any, end: Any) -> Span:
    if type(start) is not int or type(end) is not int:
        raise ValueError(f"offsets are {start!r} and {end!r}, not whole numbers")
    return Span(start, end)


def _place(span: Span | None, score: float | None) -> dict[str, Any]:
    place: dict[str, Any] = {} if span is None else {"start": span.start, "end": span.end}
    return place | ({} if score is None else {"score": score})
