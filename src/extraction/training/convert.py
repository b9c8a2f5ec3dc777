"""Annotated texts to records for tuning and testing: IEPile's ``{task, source, instruction, output}``.

A `Conversion` says what is asked of each text (task, schema, portions, negatives, order) and in which format. The
records of a text depend on the conversion, its seed and the sample alone, so that any part of a set converts to the
same bytes at any time, in any process. No record is cut to a length: one that is too long for a model is left out, and
counted, by the data module, because half an answer or a text without its entities would teach the wrong thing.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from src.errors import UserError
from src.extraction.formats.batching import MAX_ROLES, batches, question_of, questions, split_num_of
from src.extraction.formats.format import PromptFormat, load_format
from src.extraction.items import Items, Sample
from src.extraction.schema import Element, EventType, Language, Question, RelationType, Schema, Task
from src.extraction.training.negatives import Hard, Negatives, build_hard, chosen_elements, is_positive, shuffled


@dataclass(frozen=True)
class Conversion:
    """How the samples of a set are asked about.

    Args:
        by_topic: schemas for samples of a category (InstructIE), used instead of ``schema`` where there is one.
        negatives: all, random or hard; ``ratio`` and ``hard`` as in
            `src.extraction.training.negatives.chosen_elements`. Hard negatives without a dictionary are the labels with
            similar names.
        shuffle: ask in random order, so that a model is not bound to one; else in the schema's.
        empty_share: share of the records without any answer that is kept, chosen by chance.
    """

    task: Task
    schema: Schema
    format: str = "oneke"
    split_num: int | None = None
    max_roles: int | None = MAX_ROLES
    language: Language | None = None
    negatives: Negatives = "all"
    ratio: float = 1.0
    hard: Hard | None = None
    shuffle: bool = True
    empty_share: float = 1.0
    seed: int = 0
    by_topic: Mapping[str, Schema] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.negatives not in ("all", "random", "hard"):
            raise UserError(f"negatives={self.negatives} is not known: choose one of all, random, hard")
        for name in ("ratio", "empty_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} is not a share: give a number from 0 to 1")
        split_num_of(self.task, self.split_num)
        self.schema_of("").elements(self.task)

    @cached_property
    def prompt(self) -> PromptFormat:
        return load_format(self.format)

    def schema_of(self, category: str) -> Schema:
        """The schema for a sample of a category."""
        return self.by_topic.get(category, self.schema)

    @cached_property
    def hard_of(self) -> dict[str, Hard]:
        """Hard negatives by category, "" for all others."""
        if self.hard is not None:
            return {"": self.hard}
        schemas = {"": self.schema, **self.by_topic}
        return {name: build_hard(schema.elements(self.task)) for name, schema in schemas.items()}


@dataclass
class Counts:
    """What became of the samples of one input."""

    samples: int = 0
    samples_without_records: int = 0  # nothing of the task in them (EEA: no event)
    records: int = 0
    empty_records: int = 0  # the right answer is that there is nothing
    empty_left_out: int = 0
    outside_schema: Counter[str] = field(default_factory=Counter)  # items whose type is not in the schema
    not_in_text: int = 0  # texts of items that the sample's text does not hold
    elements: Counter[str] = field(default_factory=Counter)  # how often each name was asked for
    positives: Counter[str] = field(default_factory=Counter)  # how often with an answer

    def add_records_of(self, other: "Counts") -> None:
        """Count further records of the same texts."""
        self.records += other.records
        self.empty_records += other.empty_records
        self.empty_left_out += other.empty_left_out
        self.elements.update(other.elements)
        self.positives.update(other.positives)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()}


def training_questions(sample: Sample, conversion: Conversion, counts: Counts | None = None) -> list[Question]:
    """What the training records of a sample ask, portion by portion."""
    found = counts if counts is not None else Counts()
    rng = random.Random(f"{conversion.seed}:{sample.id}")
    schema = conversion.schema_of(sample.category)
    elements = schema.elements(conversion.task)
    for name in _outside(conversion.task, elements, sample.items):
        found.outside_schema[name] += 1
    split_num = split_num_of(conversion.task, conversion.split_num)
    triggers: dict[str, tuple[str, ...]] = {}
    if conversion.task is Task.EEA:  # asked of events whose triggers are known, so only of those there are
        chosen = [element for element in elements if is_positive(element, sample.items)]
        triggers = _triggers(sample.items)
    else:
        hard = None
        if conversion.negatives == "hard":
            hard = conversion.hard_of.get(sample.category, conversion.hard_of[""])
        chosen = chosen_elements(elements, sample.items, conversion.negatives, split_num, rng, hard, conversion.ratio)
    if conversion.shuffle:
        chosen = shuffled(chosen, rng)
    max_roles = None if conversion.task is Task.EET else conversion.max_roles
    language = conversion.language or schema.language
    return [question_of(conversion.task, each, language, triggers) for each in batches(chosen, split_num, max_roles)]


def training_records(sample: Sample, conversion: Conversion, counts: Counts | None = None) -> list[dict[str, Any]]:
    """The training records of a sample; ``counts`` adds up what became of it."""
    found = counts if counts is not None else Counts()
    rng = random.Random(f"{conversion.seed}:{sample.id}:empty")
    records = []
    found.samples += 1
    found.not_in_text += _missing(sample)
    for question in training_questions(sample, conversion, found):
        hits = [element.name for element in question.elements if is_positive(element, sample.items)]
        if not hits and conversion.empty_share < 1 and rng.random() >= conversion.empty_share:
            found.empty_left_out += 1
            continue
        found.empty_records += not hits
        found.elements.update(question.names)
        found.positives.update(hits)
        answer = conversion.prompt.answer(question, sample.items, sample.text)
        records.append(_record(conversion, sample, question) | {"output": answer})
    found.records += len(records)
    found.samples_without_records += not records
    return records


def test_records(sample: Sample, conversion: Conversion) -> list[dict[str, Any]]:
    """The test records of a sample: the whole schema in its own order; gold as ``label``, where there is any."""
    triggers = _triggers(sample.items) if conversion.task is Task.EEA else None
    schema = conversion.schema_of(sample.category)
    asked = questions(
        schema, conversion.task, conversion.split_num, conversion.language, triggers, max_roles=conversion.max_roles
    )
    label = sample.items.as_dict().get(_kind(conversion.task))
    gold = {"label": json.dumps(label, ensure_ascii=False)} if label is not None else {}
    return [{"id": sample.id} | _record(conversion, sample, question) | gold for question in asked]


test_records.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test's


def _record(conversion: Conversion, sample: Sample, question: Question) -> dict[str, Any]:
    message = conversion.prompt.message(question, sample.text)
    fields = {"task": conversion.task.name, "source": sample.source, "instruction": message.content}
    return fields | ({"input": message.input} if message.input else {})


def _kind(task: Task) -> str:
    return {Task.NER: "entity", Task.RE: "relation", Task.SPO: "relation", Task.KG: "relation"}.get(task, "event")


def _triggers(items: Items) -> dict[str, tuple[str, ...]]:
    """The triggers of each event type, one for each event, as IEPile's training data have them."""
    found: dict[str, tuple[str, ...]] = {}
    for event in items.events:
        found[event.type] = (*found.get(event.type, ()), *([event.trigger] if event.trigger else []))
    return found


def _outside(task: Task, elements: tuple[Element, ...], items: Items) -> list[str]:
    """Types of the sample's items that no element asks for."""
    if task is Task.NER:
        names = {element.name for element in elements}
        return [entity.type for entity in items.entities if entity.type not in names]
    if task in (Task.RE, Task.SPO):
        asked = {(e.head_type, e.name, e.tail_type) for e in elements if isinstance(e, RelationType)}
        found = []
        for relation in items.relations:
            types = (relation.head_type, relation.tail_type) if task is Task.SPO else ("", "")
            if (types[0], relation.relation, types[1]) not in asked:
                found.append("_".join(filter(None, (types[0], relation.relation, types[1]))))
        return found
    if task is Task.KG:
        attributes = {role.name for element in elements for role in getattr(element, "attributes", ())}
        return [relation.relation for relation in items.relations if relation.relation not in attributes]
    roles = {
        element.name: {role.name for role in element.roles} for element in elements if isinstance(element, EventType)
    }
    found = [event.type for event in items.events if event.type not in roles]
    if task is not Task.EET:
        found += [
            f"{event.type}: {argument.role}"
            for event in items.events
            for argument in event.arguments
            if argument.role not in roles.get(event.type, {argument.role})
        ]
    return found


def _missing(sample: Sample) -> int:
    items = sample.items
    spans = [entity.span for entity in items.entities]
    spans += [span for relation in items.relations for span in (relation.head_span, relation.tail_span)]
    spans += [event.span for event in items.events if event.trigger]
    spans += [argument.span for event in items.events for argument in event.arguments]
    return sum(span is None for span in spans)
