"""Precision, recall and F1 of what was found beside what is annotated, for the seven tasks, in percent.

Every record is compared with its gold items once, whatever the number of prompts it took. Counts are added up over
records: P = right / found, R = right / expected, F1 = 2PR/(P+R), each 0 where its denominator is 0. What is compared
is said in `src.extraction.scoring.units`.

- ``set`` (default): repeats within a record neither help nor harm.
- ``multiset``: a prediction uses up one gold item; a repeated one is wrong.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from src.extraction.formats.format import Note, PromptFormat, Status
from src.extraction.items import Items, Sample
from src.extraction.offsets import place
from src.extraction.schema import Question, Task
from src.extraction.scoring.units import VIEWS, ArgumentMatch, Unit, is_typed, units

Mode = Literal["set", "multiset"]


@dataclass(frozen=True)
class Graded:
    """What was found in one text beside its gold items.

    statuses, notes: how its answers were read, as `src.extraction.formats.format.Parsed` has them.
    """

    gold: Sample
    found: Items
    task: Task
    statuses: Counter[Status] = field(default_factory=Counter)
    notes: Counter[Note] = field(default_factory=Counter)


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question about a sample; a sample may have several."""

    gold: Sample
    question: Question
    text: str


@dataclass(frozen=True)
class Counts:
    """How many units are right, found and expected; the rates are in percent."""

    right: int = 0
    found: int = 0
    expected: int = 0

    @property
    def precision(self) -> float:
        return 100 * _share(self.right, self.found)

    @property
    def recall(self) -> float:
        return 100 * _share(self.right, self.expected)

    @property
    def f1(self) -> float:
        return 100 * _share(2 * self.right, self.found + self.expected)

    def __add__(self, other: Self) -> "Counts":
        return Counts(self.right + other.right, self.found + other.found, self.expected + other.expected)

    def as_dict(self) -> dict[str, float]:
        rates = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return rates | {"right": self.right, "found": self.found, "expected": self.expected}


@dataclass(frozen=True)
class Score:
    """One view of one task.

    records: counts of each record, in their order.
    exact: records in which everything was found and nothing else.
    """

    total: Counts
    by_type: Mapping[str, Counts]
    by_source: Mapping[str, Counts]
    by_category: Mapping[str, Counts]
    records: Sequence[tuple[int, int, int]] = field(repr=False)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the types that are expected anywhere; 0 where none is."""
        f1s = [counts.f1 for counts in self.by_type.values() if counts.expected]
        return sum(f1s) / len(f1s) if f1s else 0.0

    @property
    def exact(self) -> int:
        return sum(right == found == expected for right, found, expected in self.records)

    def interval(self, draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Confidence interval of the micro F1 in percent: bootstrap over records (Efron 1979), percentiles."""
        import numpy as np

        if not self.records:
            return 0.0, 0.0
        counts = np.asarray(self.records, dtype=np.int64)  # [records, 3]
        generator = np.random.default_rng(seed)
        f1s = []
        for _ in range(draws):
            drawn = np.bincount(generator.integers(len(counts), size=len(counts)), minlength=len(counts))
            right, found, expected = (drawn @ counts).tolist()
            f1s.append(Counts(right, found, expected).f1)
        low, high = np.percentile(f1s, [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)

    def as_dict(self, draws: int = 0) -> dict[str, Any]:
        """For JSON. ``draws``: of the bootstrap; 0 for no interval."""
        fields: dict[str, Any] = {"micro": self.total.as_dict(), "macro_f1": self.macro_f1}
        if draws:
            fields["f1_interval"] = list(self.interval(draws))
        fields |= {"records": len(self.records), "exact_records": self.exact}
        parts = {"by_type": self.by_type, "by_source": self.by_source, "by_category": self.by_category}
        for name, counts in parts.items():
            if counts:
                fields[name] = {key: value.as_dict() for key, value in counts.items()}
        return fields


@dataclass(frozen=True)
class Report:
    """Scores by task and view (`src.extraction.scoring.units.VIEWS`), and how answers were read."""

    scores: Mapping[Task, Mapping[str, Score]]
    records: int
    statuses: Counter[Status]
    notes: Counter[Note]

    @property
    def f1(self) -> float:
        """Micro F1 of all tasks together, each by its first view, in percent."""
        return sum((next(iter(views.values())).total for views in self.scores.values()), Counts()).f1

    @property
    def failed(self) -> int:
        """Answers that could not be read."""
        return self.statuses[Status.FAILED]

    def as_dict(self, draws: int = 0) -> dict[str, Any]:
        """For JSON."""
        return {
            "f1": self.f1,
            "records": self.records,
            "answers": {str(status): self.statuses[status] for status in Status if self.statuses[status]},
            "notes": {str(note): self.notes[note] for note in Note if self.notes[note]},
            "tasks": {
                str(task): {view: score.as_dict(draws) for view, score in views.items()}
                for task, views in self.scores.items()
            },
        }


def score(graded: Iterable[Graded], mode: Mode = "set", match: ArgumentMatch = "by_type") -> Report:
    """Compare records of any tasks with their gold items.

    Args:
        match: whether an argument counts by its event's type (IEPile), or only under the right trigger (DeepKE).
    """
    records = list(graded)
    by_task: dict[Task, list[Graded]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    scores = {
        task: {view: _score_view(by_task[task], task, view, mode, match) for view in VIEWS[task]}
        for task in Task
        if task in by_task
    }
    statuses = sum((record.statuses for record in records), Counter[Status]())
    notes = sum((record.notes for record in records), Counter[Note]())
    return Report(scores, len(records), statuses, notes)


def grade(answers: Iterable[Answer], format: PromptFormat, strict: bool = False) -> list[Graded]:
    """Read answers and put those of one sample and task together: the records that `score` takes.

    Samples are told apart by everything they are, because in IEPile's files texts that are equal share an id.
    """
    found: dict[tuple[Sample, Task], Graded] = {}
    for answer in answers:
        key = answer.gold, answer.question.task
        before = found.get(key) or Graded(answer.gold, Items(), answer.question.task)
        parsed = format.parse(answer.text, answer.question, answer.gold.text, strict)
        _, missing = place(parsed.items, answer.gold.text)
        before.statuses[parsed.status] += 1
        before.notes.update(parsed.notes + missing)
        together = _joined(before.found, parsed.items + parsed.repeats)  # which count in the mode multiset
        found[key] = Graded(before.gold, together, before.task, before.statuses, before.notes)
    return list(found.values())


def _joined(before: Items, new: Items) -> Items:
    """The items of two prompts: an event that each asked for some roles of is one event."""
    events = list(before.events)
    numbers = {(event.type, event.trigger): number for number, event in enumerate(events)}
    for event in new.events:
        number = numbers.get((event.type, event.trigger))
        if number is None:
            events.append(event)
        else:
            arguments = dict.fromkeys(events[number].arguments + event.arguments)
            events[number] = replace(events[number], arguments=tuple(arguments))
    return Items(before.entities + new.entities, before.relations + new.relations, tuple(events))


def _score_view(records: Sequence[Graded], task: Task, view: str, mode: Mode, match: ArgumentMatch) -> Score:
    labels: tuple[list[str], list[str], list[str]] = ([], [], [])  # of units right, found and expected
    counts: list[tuple[int, int, int]] = []
    for record in records:
        typed = is_typed(record.gold.items, task)
        expected: Collection[Unit] = units(record.gold.items, task, view, match, typed)
        found: Collection[Unit] = units(record.found, task, view, match, typed)
        right: Collection[Unit]
        if mode == "set":
            expected, found = set(expected), set(found)
            right = expected & found
        else:
            right = list((Counter(found) & Counter(expected)).elements())
        counts.append((len(right), len(found), len(expected)))
        for names, each in zip(labels, (right, found, expected), strict=True):
            names += [unit[0] for unit in each]
    right_of, found_of, expected_of = map(Counter, labels)
    by_type = {
        name: Counts(right_of[name], found_of[name], expected_of[name])
        for name in sorted(found_of.keys() | expected_of.keys())
    }
    total = Counts(*map(sum, zip(*counts, strict=True)))
    return Score(total, by_type, _by(records, counts, "source"), _by(records, counts, "category"), counts)


def _by(records: Sequence[Graded], counts: Sequence[tuple[int, int, int]], name: str) -> dict[str, Counts]:
    groups: dict[str, list[tuple[int, int, int]]] = {}
    for record, each in zip(records, counts, strict=True):
        if value := getattr(record.gold, name):
            groups.setdefault(value, []).append(each)
    return {value: Counts(*map(sum, zip(*groups[value], strict=True))) for value in sorted(groups)}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
