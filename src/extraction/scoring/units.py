"""What counts as one right answer in each task: items as tuples that are compared as text after `str.strip`.

| view | tasks | unit |
|---|---|---|
| entity | NER | type, text |
| triple | RE, SPO | relation, head, tail |
| typed_triple | SPO | relation, head type, head, tail type, tail |
| trigger | EET, EE | event type, trigger |
| argument | EE, EEA | event type, role, text; with ``under_trigger`` the trigger too |
| attribute | KG | attribute, entity type, entity, value |
| entity | KG | entity type, entity |

The first part of a unit is the type it is counted under. Types of heads and tails that the gold annotation of a record
does not know are left out on both sides. An event without a trigger is no unit of ``trigger``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from src.extraction.items import Items
from src.extraction.schema import EventType, RecordType, RelationType, Schema, Task

ArgumentMatch = Literal["by_type", "under_trigger"]
Unit = tuple[str, ...]
Units = list[Unit]

# views of a task, the one that stands for it first
VIEWS: Mapping[Task, tuple[str, ...]] = {
    Task.NER: ("entity",),
    Task.RE: ("triple",),
    Task.SPO: ("typed_triple", "triple"),
    Task.EET: ("trigger",),
    Task.EE: ("argument", "trigger"),
    Task.EEA: ("argument",),
    Task.KG: ("attribute", "entity"),
}


def units(items: Items, task: Task, view: str, match: ArgumentMatch = "by_type", typed: bool = True) -> Units:
    """The units of items in one view of a task, repeats included.

    Args:
        typed: whether ends have types (`is_typed` of the gold items); else they count as equal.
    """
    if task is Task.KG and view == "entity":
        found = [(entity.type.strip(), entity.text.strip()) for entity in items.entities] if typed else []
        heads = [(r.head_type.strip() if typed else "", r.head.strip()) for r in items.relations]
        return list(dict.fromkeys(found + heads))
    if view == "argument" and match == "under_trigger":
        return [
            (e.type.strip(), a.role.strip(), a.text.strip(), e.trigger.strip())
            for e in items.events
            for a in e.arguments
        ]
    return _VIEWS[view](items, typed)


_VIEWS: Mapping[str, Callable[[Items, bool], Units]] = {
    "entity": lambda items, _: [(e.type.strip(), e.text.strip()) for e in items.entities],
    "triple": lambda items, _: [(r.relation.strip(), r.head.strip(), r.tail.strip()) for r in items.relations],
    "typed_triple": lambda items, typed: [
        (
            r.relation.strip(),
            r.head_type.strip() if typed else "",
            r.head.strip(),
            r.tail_type.strip() if typed else "",
            r.tail.strip(),
        )
        for r in items.relations
    ],
    "trigger": lambda items, _: [(e.type.strip(), e.trigger.strip()) for e in items.events if e.trigger.strip()],
    "argument": lambda items, _: [
        (e.type.strip(), a.role.strip(), a.text.strip()) for e in items.events for a in e.arguments
    ],
    "attribute": lambda items, typed: [
        (r.relation.strip(), r.head_type.strip() if typed else "", r.head.strip(), r.tail.strip())
        for r in items.relations
    ],
}


def is_typed(gold: Items, task: Task) -> bool:
    """Whether the ends of gold relations have the types that the task compares."""
    if task is Task.SPO:
        return all(relation.head_type and relation.tail_type for relation in gold.relations)
    return task is not Task.KG or all(relation.head_type for relation in gold.relations)


def types(items: Items, task: Task) -> list[str]:
    """Names of the types of the items that the task is about."""
    if task is Task.NER:
        return [entity.type for entity in items.entities]
    if task in (Task.RE, Task.SPO, Task.KG):
        return [relation.relation for relation in items.relations]
    return [event.type for event in items.events]


def asked_for(items: Items, schema: Schema, task: Task) -> Items:
    """The part of gold items that a task asks for with this schema: an answer can hold nothing else."""
    elements = schema.elements(task)
    if task is Task.NER:
        names = {element.name for element in elements}
        return Items(entities=tuple(entity for entity in items.entities if entity.type in names))
    if task in (Task.RE, Task.SPO):
        wanted = {(e.head_type, e.name, e.tail_type) for e in elements if isinstance(e, RelationType)}
        names = {name for _, name, _ in wanted}
        return Items(
            relations=tuple(
                r
                for r in items.relations
                if (r.head_type, r.relation, r.tail_type) in wanted
                or (r.relation in names and (task is Task.RE or not (r.head_type and r.tail_type)))
            )
        )
    if task is Task.KG:
        records = {e.name: {role.name for role in e.attributes} for e in elements if isinstance(e, RecordType)}
        every = set().union(*records.values())
        return Items(
            tuple(entity for entity in items.entities if entity.type in records),
            tuple(r for r in items.relations if r.relation in (records.get(r.head_type, ()) if r.head_type else every)),
        )
    roles = {e.name: {role.name for role in e.roles} for e in elements if isinstance(e, EventType)}
    return Items(
        events=tuple(
            replace(event, arguments=tuple(a for a in event.arguments if a.role in roles[event.type]))
            for event in items.events
            if event.type in roles
        )
    )
