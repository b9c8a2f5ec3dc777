"""The scores that IEPile's published evaluator gives (``ie2instruction/eval_func.py``), from its rules, for comparison.

Its rules, as they bear on numbers: an answer is read by `json.loads` and nothing else, one that can't be read counts
one error; every key of an answer counts, asked for or not; members of a wrong type are passed over; relations must be
``subject`` and ``object``; texts are compared as they stand; repeats count; argument units are (event type, text,
role). P and R are rounded to two places of a percent before F1, and F1 again.

Where it is wrong, so are these numbers: relations under ``head`` and ``tail``, as IEPile's own converter writes them,
become empty ones; events of task EEA count by their type alone, so that two of one type in the gold and one in the
answer cost a point, and their arguments are read in the flat form only, which IEPile's own converter does not write;
samples of one text and source are one sample with the first one's labels. There EET and SPO end in an exception, and
for KG whole records are compared with triples, so that the score is always 0: here all three are a `UserError`.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src.errors import UserError
from src.extraction.items import Items
from src.extraction.schema import Task
from src.extraction.scoring.scoring import Answer

IEPILE_TASKS = frozenset({Task.NER, Task.RE, Task.EE, Task.EEA})
NAN = "NAN"  # the only word for "nothing" that it knows, and only in arguments
Units = Counter[Hashable]


@dataclass(frozen=True)
class IEPileScore:
    """Percentages rounded as there."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, right: int, found: int, expected: int) -> "IEPileScore":
        precision = round(100 * right / found, 2) if found else 0.0
        recall = round(100 * right / expected, 2) if expected else 0.0
        both = precision + recall
        return cls(precision, recall, round(2 * precision * recall / both, 2) if both else 0.0)


@dataclass(frozen=True)
class IEPileReport:
    """Scores by what is compared: ``entity``, ``relation``, or ``event`` and ``argument``.

    errors: answers that are no JSON object.
    """

    scores: Mapping[str, IEPileScore]
    records: int
    errors: int

    def as_dict(self) -> dict[str, Any]:
        return {name: vars(score) for name, score in self.scores.items()} | {
            "records": self.records,
            "errors": self.errors,
        }


def iepile_score(answers: Iterable[Answer]) -> IEPileReport:
    """Score the answers of one task: NER, RE, EE or EEA. Raises `UserError` for the others, and for several tasks."""
    grouped: dict[tuple[str, str], list[Answer]] = {}
    tasks = set()
    for answer in answers:
        tasks.add(answer.question.task)
        grouped.setdefault((answer.gold.source, answer.gold.id or answer.gold.text), []).append(answer)
    if len(tasks) != 1 or not tasks <= IEPILE_TASKS:
        given = ", ".join(sorted(tasks)) or "none"
        raise UserError(f"IEPile's evaluator scores one of the tasks ner, re, ee, eea at a time, not {given}: leave it")
    task = tasks.pop()
    views = {Task.NER: ("entity",), Task.RE: ("relation",)}.get(task, ("event", "argument"))
    counts: dict[str, list[int]] = {view: [0, 0, 0] for view in views}
    errors = 0
    for batches in grouped.values():
        found_units: dict[str, Units] = {view: Counter() for view in views}
        for answer in batches:
            value = _loaded(answer.text)
            if value is None:
                errors += 1
            else:
                for view, unit in _READERS[task](value):
                    found_units[view][unit] += 1
        expected_units: dict[str, Units] = {view: Counter() for view in views}
        for view, unit in _gold(batches[0].gold.items, task):
            expected_units[view][unit] += 1
        for view, total in counts.items():
            expected = expected_units[view]
            for index, counted in enumerate((found_units[view] & expected, found_units[view], expected)):
                total[index] += counted.total()
    return IEPileReport({view: IEPileScore.of(*total) for view, total in counts.items()}, len(grouped), errors)


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lists(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, members in value.items():
        if isinstance(members, list):
            yield from ((key, member) for member in members)


def _entities(value: Mapping[str, Any]) -> Iterator[tuple[str, Hashable]]:
    for key, member in _lists(value):
        if isinstance(member, str):
            yield "entity", (member, key)


def _relations(value: Mapping[str, Any]) -> Iterator[tuple[str, Hashable]]:
    for key, member in _lists(value):
        if isinstance(member, dict):
            head, tail = member.get("subject", ""), member.get("object", "")
            if isinstance(head, str) and isinstance(tail, str):
                yield "relation", (head, key, tail)


def _events(value: Mapping[str, Any]) -> Iterator[tuple[str, Hashable]]:
    for key, member in _lists(value):
        if isinstance(member, dict) and isinstance(trigger := member.get("trigger", ""), str):
            yield "event", (key, trigger)
            arguments = member.get("arguments", {})
            yield from _arguments(key, arguments if isinstance(arguments, dict) else {})


def _event_arguments(value: Mapping[str, Any]) -> Iterator[tuple[str, Hashable]]:
    for key, member in _lists(value):
        if isinstance(member, dict):
            yield "event", (key, "")
            yield from _arguments(key, member)


def _arguments(event: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Hashable]]:
    for role, values in arguments.items():
        for each in values if isinstance(values, list) else [values]:
            if each != NAN:
                text = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False, sort_keys=True)
                yield "argument", (event, text, role)


_READERS: Mapping[Task, Callable[[Mapping[str, Any]], Iterator[tuple[str, Hashable]]]] = {
    Task.NER: _entities,
    Task.RE: _relations,
    Task.EE: _events,
    Task.EEA: _event_arguments,
}


def _gold(items: Items, task: Task) -> Iterator[tuple[str, Hashable]]:
    for entity in items.entities if task is Task.NER else ():
        yield "entity", (entity.text, entity.type)
    for relation in items.relations if task is Task.RE else ():
        yield "relation", (relation.head, relation.relation, relation.tail)
    for event in items.events if task in (Task.EE, Task.EEA) else ():
        yield "event", (event.type, event.trigger if task is Task.EE else "")
        yield from (("argument", (event.type, argument.text, argument.role)) for argument in event.arguments)
