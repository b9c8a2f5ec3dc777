"""Score an extractor on annotated texts: what it finds by itself beside what is annotated."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.extraction.documents import Document
from src.extraction.items import Sample
from src.extraction.plan import Extraction, Plan, finish, follow_up, plan
from src.extraction.readers.read import read_samples
from src.extraction.readers.schemas import read_readable, read_schema, read_topics, renamed, renamed_items
from src.extraction.schema import Language, Schema, Task
from src.extraction.scoring.scoring import Graded, Mode, Report, score
from src.extraction.scoring.units import VIEWS, ArgumentMatch, asked_for, is_typed, types, units
from src.generation.engine import Engine
from src.generation.tasks import Answer, answers

if TYPE_CHECKING:
    from src.extraction.extractor import Extractor


@dataclass(frozen=True)
class GoldSet:
    """Annotated texts with what is asked of them.

    by_topic: schemas of InstructIE's topics, for samples of these categories; the others have ``schema``.
    """

    samples: Sequence[Sample]
    schema: Schema
    task: Task
    by_topic: Mapping[str, Schema]

    def schema_of(self, sample: Sample) -> Schema:
        return self.by_topic.get(sample.category, self.schema)

    def groups(self) -> Iterator[tuple[Schema, list[Sample]]]:
        """The samples of each schema."""
        found: dict[str, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.category if sample.category in self.by_topic else "", []).append(sample)
        for category, samples in found.items():
            yield self.by_topic.get(category, self.schema), samples


def read_gold(
    path: str | Path,
    schema: Any,
    task: Task,
    *,
    format: str = "auto",
    source: str | None = None,
    language: Language | None = None,
    readable: bool = False,
    limit: int | None = None,
) -> GoldSet:
    """Annotated texts from a file, with their schema.

    Args:
        schema: whatever `src.extraction.readers.schemas.read_schema` takes.
        format: of the file: see `src.extraction.readers.read.read_samples`.
        readable: call types by the readable names of the schema's file, as a model was tuned that way.
        limit: of texts, from the top.

    Raises:
        UserError: a file is missing or of no known form, ids repeat, the schema has nothing for the task, or it asks
            for no type that is annotated.
    """
    by_topic = read_topics(schema, language) if isinstance(schema, (str, Path)) else {}
    found = next(iter(by_topic.values())) if by_topic else read_schema(schema, language)
    names = read_readable(schema, language) if readable else {}
    samples: list[Sample] = []
    annotated: dict[str, None] = {}
    for sample in read_samples(path, format, source):
        if limit is not None and len(samples) >= limit:
            break
        kept = asked_for(sample.items, by_topic.get(sample.category, found), task)
        annotated |= dict.fromkeys(types(sample.items, task))
        samples.append(replace(sample, items=renamed_items(kept, names)))
    if not samples:
        raise UserError(f"{path} holds no annotated texts: give at least one")
    if annotated and not any(len(sample.items) for sample in samples):
        names_asked = ", ".join(element.name for element in found.elements(task)[:5])
        raise UserError(
            f"nothing that task={task} asks for by this schema ({names_asked}, …) is annotated in {path}, whose types "
            f"are {', '.join(list(annotated)[:5])}, …: give the schema of these"
        )
    return GoldSet(samples, renamed(found, names), task, by_topic)


@dataclass(frozen=True)
class ExtractionEvaluation:
    """Scores of an extractor, how fast it was, and what it found.

    seconds: from the first request to the last answer.
    """

    report: Report
    graded: Sequence[Graded]
    extractions: Sequence[Extraction]
    seconds: float

    @property
    def documents_per_second(self) -> float:
        return len(self.extractions) / max(self.seconds, 1e-9)

    def metrics(self, draws: int = 0) -> dict[str, Any]:
        """For JSON. ``draws``: of the bootstrap of confidence intervals; 0 for none."""
        counts = {
            "documents": len(self.extractions),
            "requests": sum(each.requests for each in self.extractions),
            "truncated": sum(each.truncated for each in self.extractions),
            "prompt_tokens": sum(each.prompt_tokens for each in self.extractions),
            "completion_tokens": sum(each.completion_tokens for each in self.extractions),
            "seconds": self.seconds,
            "documents_per_second": self.documents_per_second,
        }
        return self.report.as_dict(draws) | counts

    def save(self, folder: str | Path, draws: int = 1000) -> None:
        """Write ``metrics.json``, and ``predictions.jsonl`` with what was missed and what is wrong in each text."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.metrics(draws), indent=2, ensure_ascii=False) + "\n"
        (target / "metrics.json").write_text(text, encoding="utf-8")
        with (target / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for graded, found in zip(self.graded, self.extractions, strict=True):
                row = found.as_dict() | {"gold": graded.gold.items.as_dict()} | differences(graded)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def differences(graded: Graded) -> dict[str, Any]:
    """Units that were missed and units that are wrong, by the view that stands for the task."""
    view = VIEWS[graded.task][0]
    typed = is_typed(graded.gold.items, graded.task)
    expected = units(graded.gold.items, graded.task, view, typed=typed)
    found = units(graded.found, graded.task, view, typed=typed)
    return {
        "missed": [list(unit) for unit in dict.fromkeys(expected) if unit not in set(found)],
        "wrong": [list(unit) for unit in dict.fromkeys(found) if unit not in set(expected)],
    }


def evaluate_extractor(
    extractor: "Extractor",
    gold: GoldSet,
    mode: Mode = "set",
    match: ArgumentMatch = "by_type",
    done: Callable[[Extraction], None] | None = None,
) -> ExtractionEvaluation:
    """Extract from every text and compare; ``done`` is called after each."""

    def extract(documents: list[Document], schema: Schema) -> Iterable[Extraction]:
        return extractor.extract_many(documents, schema, gold.task)

    return _evaluate(extract, gold, mode, match, done)


def evaluate_in_step(extractor: "Extractor", gold: GoldSet, match: ArgumentMatch = "by_type") -> ExtractionEvaluation:
    """The same in the caller's thread and in an order that is the same on every rank of a training."""

    def extract(documents: list[Document], schema: Schema) -> Iterable[Extraction]:
        options = extractor.options(schema, gold.task)
        return run_plans(extractor.engine, [plan(document, schema, gold.task, options) for document in documents])

    return _evaluate(extract, gold, "set", match, None)


def run_plans(engine: Engine, plans: Sequence[Plan]) -> list[Extraction]:
    """What the plans find, all first steps before all second ones."""
    found: dict[int, Extraction] = {}
    steps: dict[int, Plan] = dict(enumerate(plans))
    while steps:
        requests = [
            replace(request, id=f"{number}/{request.id}") for number, step in steps.items() for request in step.requests
        ]
        by_plan: dict[int, list[Answer]] = {number: [] for number in steps}
        for answer in answers(engine, requests) if requests else ():
            plan_number, _, name = answer.id.partition("/")
            by_plan[int(plan_number)].append(replace(answer, id=name))
        following = {number: follow_up(step, by_plan[number]) for number, step in steps.items()}
        for number, step in steps.items():
            if following[number] is None:
                found[number] = finish(step, by_plan[number])
        steps = {number: step for number, step in following.items() if step is not None}
    return [found[number] for number in range(len(plans))]


def _evaluate(
    extract: Callable[[list[Document], Schema], Iterable[Extraction]],
    gold: GoldSet,
    mode: Mode,
    match: ArgumentMatch,
    done: Callable[[Extraction], None] | None,
) -> ExtractionEvaluation:
    start = time.perf_counter()
    graded: list[Graded] = []
    extractions: list[Extraction] = []
    for schema, samples in gold.groups():
        documents = [Document(sample.id, sample.text, sample.source) for sample in samples]
        for sample, found in zip(samples, extract(documents, schema), strict=True):
            graded.append(Graded(sample, found.items, gold.task, found.statuses, found.notes))
            extractions.append(found)
            if done is not None:
                done(found)
    return ExtractionEvaluation(score(graded, mode, match), graded, extractions, time.perf_counter() - start)
