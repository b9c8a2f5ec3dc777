"""Items to the JSON answer of a question and back: IEPile's and OneKE's forms for the seven tasks.

One key for each element asked for, in the question's order:

- NER, EET: a list of texts
- RE, SPO: a list of ``{"subject", "object"}``
- EE: a list of ``{"trigger", "arguments": {role: text, [texts] or "NAN"}}``
- EEA: the same; a flat role object and one without trigger are read too
- KG: ``{entity: {attribute: text or [texts]}}``, absent attributes left out

Lists are in the order of the text. ``NAN`` stands for no trigger and, in arguments, for a role that nothing plays.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from src.extraction.formats.format import Note
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.schema import EventType, Question, RecordType, RelationType, Task

# As models spell it; "Nan" and "Nil" are names.
NONE = frozenset({"", "NAN", "NaN", "nan", "None", "NONE", "none", "Null", "NULL", "null", "NIL", "nil", "无"})
HEAD_KEYS = ("subject", "head", "h", "头实体")
TAIL_KEYS = ("object", "tail", "t", "尾实体")


def is_none(value: Any) -> bool:
    """Whether a value says that there is nothing."""
    return value is None or (isinstance(value, str) and value.strip() in NONE)


def answer_object(question: Question, items: Items, text: str) -> dict[str, Any]:
    """The right answer of a question as JSON data; what it does not ask for is left out, repeats too."""
    builders: dict[Task, Callable[..., Any]] = {
        Task.NER: _entity_list,
        Task.RE: _relation_list,
        Task.SPO: _relation_list,
        Task.EET: _trigger_list,
        Task.EE: _event_list,
        Task.EEA: _event_list,
        Task.KG: _record,
    }
    build = builders[question.task]
    return {element.name: build(question, element, items, text) for element in question.elements}


def items_of_answer(question: Question, answer: Mapping[str, Any], notes: Counter[Note]) -> Items:
    """The items that an answer states, each once, without spans; what can't be read is passed over.

    That and repeats are counted in ``notes``.
    """
    return without_repeats(stated_items(question, answer, notes), notes)[0]


def stated_items(question: Question, answer: Mapping[str, Any], notes: Counter[Note]) -> Items:
    """The same with repeats."""
    readers: dict[Task, Callable[..., Items]] = {
        Task.NER: _read_entities,
        Task.RE: _read_relations,
        Task.SPO: _read_relations,
        Task.EET: _read_triggers,
        Task.EE: _read_events,
        Task.EEA: _read_events,
        Task.KG: _read_records,
    }
    read = readers[question.task]
    items = Items()
    keys = _matched_keys(question, answer, notes)
    for element in question.elements:
        if element.name not in keys:
            notes[Note.MISSING_KEY] += 1
        elif not is_none(value := answer[keys[element.name]]):
            items += read(question, element, value, notes)
    return items


def without_repeats(items: Items, notes: Counter[Note]) -> tuple[Items, Items]:
    """Each item once, and the repeats, which are counted in ``notes``."""
    kinds = [_first_and_again(kind) for kind in (items.entities, items.relations, items.events)]
    once, repeats = Items(*(first for first, _ in kinds)), Items(*(again for _, again in kinds))
    if repeats:
        notes[Note.DUPLICATE] += len(repeats)
    return once, repeats


def _first_and_again(items: Iterable[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    again = []
    seen: dict[Any, None] = {}
    for item in items:
        if item in seen:
            again.append(item)
        seen[item] = None
    return tuple(seen), tuple(again)


def _matched_keys(question: Question, answer: Mapping[str, Any], notes: Counter[Note]) -> dict[str, str]:
    """For each name asked for the answer's key: the same, or one that differs in case, width and spaces only."""
    keys = {name: name for name in question.names if name in answer}
    folded = {_folded(name): name for name in question.names if name not in keys}
    for key in answer:
        if key in keys:
            continue
        name = folded.pop(_folded(key), None)
        if name is None:
            notes[Note.HALLUCINATED_SCHEMA] += 1
        else:
            keys[name] = key
    return keys


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


# To an answer


def _by_place(texts: Iterable[str], text: str) -> list[str]:
    """Without repeats, in the order of first occurrence in the text; what it does not hold comes last."""
    places = {each: text.find(each) for each in dict.fromkeys(texts)}
    return sorted(places, key=lambda each: (places[each] < 0, places[each]))


def _entity_list(question: Question, element: Any, items: Items, text: str) -> list[str]:
    named = [entity for entity in items.entities if entity.type == element.name]
    if all(entity.span is not None for entity in named):  # two mentions of one text may stand anywhere
        named.sort(key=lambda entity: entity.span or (0, 0))
        return list(dict.fromkeys(entity.text for entity in named))
    return _by_place((entity.text for entity in named), text)


def _relation_list(question: Question, element: RelationType, items: Items, text: str) -> list[dict[str, str]]:
    pairs = dict.fromkeys((r.head, r.tail) for r in items.relations if _is_asked(r, element))
    order = {pair: tuple((text.find(end) < 0, text.find(end)) for end in pair) for pair in pairs}
    return [{"subject": head, "object": tail} for head, tail in sorted(pairs, key=order.__getitem__)]


def _is_asked(relation: Relation, element: RelationType) -> bool:
    types = (element.head_type in ("", relation.head_type), element.tail_type in ("", relation.tail_type))
    return relation.relation == element.name and all(types)


def _trigger_list(question: Question, element: EventType, items: Items, text: str) -> list[str]:
    return _by_place((e.trigger for e in items.events if e.type == element.name and e.trigger), text)


def _event_list(question: Question, element: EventType, items: Items, text: str) -> list[dict[str, Any]]:
    roles = [role.name for role in element.roles]
    answers: list[dict[str, Any]] = []
    for event in items.events:
        if event.type != element.name:
            continue
        filled = {role: _by_place((a.text for a in event.arguments if a.role == role), text) for role in roles}
        values = {role: texts[0] if len(texts) == 1 else texts or "NAN" for role, texts in filled.items()}
        answer = {"trigger": event.trigger or "NAN", "arguments": values if any(filled.values()) else {}}
        if answer not in answers:
            answers.append(answer)
    places = {event.trigger or "NAN": text.find(event.trigger) if event.trigger else -1 for event in items.events}
    return sorted(answers, key=lambda answer: (places[answer["trigger"]] < 0, places[answer["trigger"]]))


def _record(question: Question, element: RecordType, items: Items, text: str) -> dict[str, dict[str, Any]]:
    names = [entity.text for entity in items.entities if entity.type == element.name]
    attributes = {role.name for role in element.attributes}
    asked = [r for r in items.relations if r.relation in attributes and r.head_type in ("", element.name)]
    records: dict[str, dict[str, Any]] = {}
    for name in _by_place([*names, *(r.head for r in asked)], text):
        values = {
            role.name: _by_place((r.tail for r in asked if (r.head, r.relation) == (name, role.name)), text)
            for role in element.attributes
        }
        records[name] = {role: texts[0] if len(texts) == 1 else texts for role, texts in values.items() if texts}
    return records


# From an answer


def _texts(value: Any, notes: Counter[Note]) -> list[str]:
    """A text, or the texts of a list; numbers are texts that lost their quotes."""
    found = []
    for each in value if isinstance(value, list) else [value]:
        if is_none(each):
            continue
        if isinstance(each, str):
            found.append(each.strip())
        elif isinstance(each, (int, float)) and not isinstance(each, bool):
            found.append(str(each))
        else:
            notes[Note.WRONG_SHAPE] += 1
    return found


def _objects(value: Any, notes: Counter[Note]) -> Iterator[Mapping[str, Any]]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, Mapping):
            yield each
        elif not is_none(each):
            notes[Note.WRONG_SHAPE] += 1


def _read_entities(question: Question, element: Any, value: Any, notes: Counter[Note]) -> Items:
    return Items(entities=tuple(Entity(text, element.name) for text in _texts(value, notes)))


def _read_triggers(question: Question, element: Any, value: Any, notes: Counter[Note]) -> Items:
    return Items(events=tuple(Event(element.name, text) for text in _texts(value, notes)))


def _read_relations(question: Question, element: RelationType, value: Any, notes: Counter[Note]) -> Items:
    found = []
    for entry in _objects(value, notes):
        heads = next((entry[key] for key in HEAD_KEYS if key in entry), None)
        tails = next((entry[key] for key in TAIL_KEYS if key in entry), None)
        if heads is None or tails is None:
            notes[Note.WRONG_SHAPE] += 1
            continue
        types = element.head_type, element.tail_type
        ends = ((head, tail) for head in _texts(heads, notes) for tail in _texts(tails, notes))
        found += [Relation(head, element.name, tail, *types) for head, tail in ends]
    return Items(relations=tuple(found))


def _read_events(question: Question, element: EventType, value: Any, notes: Counter[Note]) -> Items:
    roles = {_folded(role.name): role.name for role in element.roles}
    found = []
    for entry in _objects(value, notes):
        if isinstance(entry.get("arguments"), Mapping) or "trigger" in entry:
            inside, trigger = entry.get("arguments"), entry.get("trigger")
        else:
            inside, trigger = entry, None
        if not isinstance(inside, Mapping):
            if not is_none(inside):
                notes[Note.WRONG_SHAPE] += 1
            inside = {}
        arguments = []
        for key, texts in inside.items():
            if (role := roles.get(_folded(key))) is None:
                notes[Note.HALLUCINATED_SCHEMA] += 1
                continue
            arguments += [Argument(text, role) for text in _texts(texts, notes)]
        triggers = _texts(trigger, notes) or [""]
        if arguments or triggers[0]:
            found += [Event(element.name, text, tuple(dict.fromkeys(arguments))) for text in triggers]
    return Items(events=tuple(found))


def _read_records(question: Question, element: RecordType, value: Any, notes: Counter[Note]) -> Items:
    attributes = {_folded(role.name): role.name for role in element.attributes}
    entities, relations = [], []
    for records in _objects(value, notes):
        for name, values in records.items():
            if is_none(name):
                continue
            entities.append(Entity(name.strip(), element.name))
            for entry in _objects(values, notes):
                for key, texts in entry.items():
                    if (attribute := attributes.get(_folded(key))) is None:
                        notes[Note.HALLUCINATED_SCHEMA] += 1
                        continue
                    relations += [
                        Relation(name.strip(), attribute, text, element.name) for text in _texts(texts, notes)
                    ]
    return Items(tuple(entities), tuple(relations))
