"""One JSON record of each data set's release as text and items. Each function raises `RejectedError` for a bad one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.errors import UserError
from src.extraction.items import Argument, Entity, Event, Items, Relation, Sample, Span, items_from_record
from src.extraction.readers.rejects import RejectedError

Record = Mapping[str, Any]


def text_of(record: Record, *keys: str) -> str:
    """The record's text under the first of the keys that it has."""
    for key in keys:
        if key in record:
            if isinstance(record[key], str) and record[key].strip():
                return str(record[key])
            raise RejectedError("no text", f"{key} is {record[key]!r:.60}")
    raise RejectedError("no text", f"none of {', '.join(keys)} among {', '.join(map(str, record))}")


def read_sample(record: Record) -> Sample:
    """IEPile's sample form and InstructIE's: ``{text, entity?, relation?, event?, id?, cate?}``."""
    text = text_of(record, "text")
    try:
        items = items_from_record(record)
    except UserError as error:
        raise RejectedError("labels of another shape", str(error)) from error
    return Sample(_id(record), text, items, str(record.get("source") or ""), str(record.get("cate") or ""))


def read_cluener(record: Record) -> Sample:
    """CLUENER: ``{text, label: {type: {entity: [[first, last], …]}}}``, the last character included."""
    text = text_of(record, "text")
    found = [
        Entity(entity, kind, Span(first, last + 1))
        for kind, entities in (record.get("label") or {}).items()
        for entity, places in entities.items()
        for first, last in places
    ]
    return Sample(_id(record), text, Items(tuple(sorted(found, key=lambda entity: entity.span or (0, 0)))))


def read_duie(record: Record) -> Sample:
    """DuIE: ``{text, spo_list: [{predicate, subject, subject_type, object, object_type}]}``.

    In version 2.0 ``object`` and ``object_type`` hold several slots: ``@value`` is the relation's tail, each other one
    the tail of a relation named ``predicate:slot``.
    """
    text = text_of(record, "text")
    found = []
    for spo in record.get("spo_list") or ():
        tails, types = spo["object"], spo.get("object_type") or ""
        for slot, tail in (tails if isinstance(tails, Mapping) else {"@value": tails}).items():
            name = spo["predicate"] if slot == "@value" else f"{spo['predicate']}:{slot}"
            kind = types.get(slot, "") if isinstance(types, Mapping) else types
            if tail:
                found.append(Relation(spo["subject"], name, tail, spo.get("subject_type") or "", kind))
    return Sample(_id(record), text, Items(relations=tuple(found)))


def read_duee(record: Record) -> Sample:
    """DuEE and DuEE-fin: ``{id, text, event_list: [{event_type, trigger, arguments: [{argument, role}]}]}``.

    The start indices of the release count characters; where they do not fit (DuEE-fin gives none for arguments), places
    are found from the texts.
    """
    text = text_of(record, "text")
    found = []
    for event in record.get("event_list") or ():
        trigger = event.get("trigger") or ""
        arguments = tuple(
            Argument(one["argument"], one["role"], _at(text, one["argument"], one.get("argument_start_index")))
            for one in event.get("arguments") or ()
        )
        span = _at(text, trigger, event.get("trigger_start_index"))
        found.append(Event(event["event_type"], trigger, arguments, span))
    return Sample(_id(record), text, Items(events=tuple(found)))


def read_spert(record: Record) -> Sample:
    """SpERT: ``{tokens, entities: [{type, start, end}], relations: [{type, head, tail}]}``, by tokens and entities."""
    tokens = record["tokens"]
    text = " ".join(tokens)
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    entities = []
    for one in record.get("entities") or ():
        start, end = starts[one["start"]], starts[one["end"]] - 1
        entities.append(Entity(text[start:end], one["type"], Span(start, end)))
    relations = [
        _between(entities[one["head"]], one["type"], entities[one["tail"]]) for one in record.get("relations") or ()
    ]
    return Sample(_id(record, "orig_id"), text, Items(tuple(entities), tuple(relations)))


def read_knowlm_ie(record: Record) -> Sample:
    """KnowLM-IE and CCKS-2023: text in ``input``, items in ``entity``, ``relation`` or ``kg``, or in the output."""
    from src.extraction.scoring.text_triples import parse_triples

    text = text_of(record, "input")
    category = str(record.get("cate") or "")
    triples = record.get("relation") or record.get("kg") or []
    entities = _entities(record.get("entity") or [])
    if not triples and not entities and isinstance(record.get("output"), str):
        found = sorted(parse_triples(record["output"]), key=lambda t: (text.find(t.head), text.find(t.tail), t))
        triples = [[triple.head, triple.relation, triple.tail] for triple in found]
    return Sample(_id(record), text, Items(entities, _relations(triples)), category=category)


def _relations(triples: Sequence[Any]) -> tuple[Relation, ...]:
    """Triples as objects or as lists of three."""
    found = []
    for one in triples:
        if isinstance(one, Mapping):
            types = one.get("head_type") or "", one.get("tail_type") or ""
            found.append(Relation(one["head"], one["relation"], one["tail"], *types))
        else:
            head, relation, tail = one
            found.append(Relation(head, relation, tail))
    return tuple(found)


def _entities(entities: Iterable[Any]) -> tuple[Entity, ...]:
    found = []
    for one in entities:
        text, kind = (one["entity"], one["entity_type"]) if isinstance(one, Mapping) else one
        found.append(Entity(text, kind))
    return tuple(found)


def _between(head: Entity, name: str, tail: Entity) -> Relation:
    return Relation(head.text, name, tail.text, head.type, tail.type, head.span, tail.span)


def _at(text: str, part: str, start: Any) -> Span | None:
    if isinstance(start, int) and part and text.startswith(part, start):
        return Span(start, start + len(part))
    return None


def _id(record: Record, key: str = "id") -> str:
    value = record.get(key)
    return "" if value is None else str(value)
