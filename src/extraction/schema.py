"""What to extract: types of entities, relations, events and attributes, and the seven tasks that ask for them.

A `Schema` holds all that is known about a domain; a task takes the part it needs (`Schema.elements`), in the order of
the file, and a `Question` is as much of that as one prompt asks for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, get_args

from src.errors import UserError

Language = Literal["en", "zh"]


def check_language(language: str) -> None:
    """Raise `UserError` for a language that no prompt is written in."""
    if language not in get_args(Language):
        raise UserError(f"language={language} is not known: choose one of {', '.join(get_args(Language))}")


class Task(StrEnum):
    """The seven tasks of IEPile and OneKE."""

    NER = "ner"  # entities
    RE = "re"  # head, relation, tail
    SPO = "spo"  # the same with the types of head and tail
    EE = "ee"  # events: triggers and arguments
    EET = "eet"  # events: triggers only
    EEA = "eea"  # arguments of events whose triggers may be given
    KG = "kg"  # entities of a type, each with its attributes

    @classmethod
    def named(cls, name: str) -> "Task":
        """The task of a name in any case. Raises `UserError`."""
        try:
            return cls(str(name).lower())
        except ValueError as error:
            raise UserError(f"task={name} is not known: choose one of {', '.join(cls)}") from error


@dataclass(frozen=True)
class EntityType:
    """A kind of entity."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class RelationType:
    """A relation, with the types of its two ends where they are known."""

    name: str
    head_type: str = ""
    tail_type: str = ""
    description: str = ""


@dataclass(frozen=True)
class Role:
    """A role in an event, or an attribute of a record."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class EventType:
    """A kind of event and the roles in it."""

    name: str
    roles: tuple[Role, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class RecordType:
    """A kind of entity whose attributes are asked for (task KG)."""

    name: str
    attributes: tuple[Role, ...] = ()
    description: str = ""


Element = EntityType | RelationType | EventType | RecordType


@dataclass(frozen=True)
class Schema:
    """Types by kind. ``language`` chooses the words of the prompt."""

    entities: tuple[EntityType, ...] = ()
    relations: tuple[RelationType, ...] = ()
    events: tuple[EventType, ...] = ()
    records: tuple[RecordType, ...] = ()
    language: Language = "en"
    name: str = ""

    def __post_init__(self) -> None:
        check_language(self.language)
        kinds: tuple[tuple[Element, ...], ...] = (self.entities, self.relations, self.events, self.records)
        if not all(each.name.strip() for kind in kinds for each in kind):
            raise UserError("a type of the schema has an empty name: give each a name")

    def elements(self, task: Task) -> tuple[Element, ...]:
        """What a task asks for, each once, in the schema's order.

        RE takes relations by name alone; SPO those whose two types are known; KG the records, or, where there are
        none, the relations by the type of their head.

        Raises:
            UserError: the schema has nothing for the task.
        """
        found: tuple[Element, ...]
        if task is Task.NER:
            found = _once(self.entities)
        elif task is Task.RE:
            found = _once(replace(relation, head_type="", tail_type="") for relation in self.relations)
        elif task is Task.SPO:
            found = tuple(dict.fromkeys(r for r in self.relations if r.head_type and r.tail_type))
        elif task is Task.KG:
            found = _once(self.records) or _records(self.relations)
        else:
            found = _once(self.events)
        if not found:
            needed = {
                Task.NER: "entities",
                Task.RE: "relations",
                Task.SPO: "relations with head and tail types",
                Task.KG: "records, or relations with head types",
            }.get(task, "events")
            raise UserError(f"schema '{self.name or 'given'}' has no {needed}, which task={task} asks for: add some")
        return found


@dataclass(frozen=True)
class Example:
    """A text with its answer, for a prompt that shows how (in-context learning). ``answer``: as JSON data."""

    text: str
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What one prompt asks of a text.

    elements: in the order in which the answer names them.
    triggers: of event types (task EEA), where they are known.
    examples: shown in the prompt.
    """

    task: Task
    elements: tuple[Element, ...]
    language: Language = "en"
    triggers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of the answer."""
        return tuple(element.name for element in self.elements)


def _once(elements: Iterable[Element]) -> tuple[Element, ...]:
    """The first element of each name."""
    names: dict[str, Element] = {}
    for element in elements:
        names.setdefault(element.name, element)
    return tuple(names.values())


def _records(relations: tuple[RelationType, ...]) -> tuple[RecordType, ...]:
    attributes: dict[str, dict[str, Role]] = {}
    for relation in relations:
        if relation.head_type:
            role = Role(relation.name, relation.description)
            attributes.setdefault(relation.head_type, {}).setdefault(relation.name, role)
    return tuple(RecordType(name, tuple(roles.values())) for name, roles in attributes.items())
