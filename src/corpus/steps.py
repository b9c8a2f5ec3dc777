"""What a step of the corpus pipeline is: a datatrove step that says what it did to the documents it saw.

A cleaning step changes a text, or drops it with the name of a rule. `CleaningStep` does the counting, so that a step is
one method from text to text; `counted` puts the same counts around any other datatrove step, such as one of its own
filters, which then needs no change. The counts of all steps of a task end up in the report.
"""

import re
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

MAX_EXAMPLES = 5
EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Drop:
    """Why a text is left out: a rule's name in ``snake_case``, and what was measured against what was allowed."""

    rule: str
    why: str = ""


@dataclass
class Dropped:
    """Documents that one rule dropped. Each example has the keys ``id``, ``why`` and ``text`` (its beginning)."""

    documents: int = 0
    bytes: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, document: Document, size: int, why: str) -> None:
        """Count one document of `size` UTF-8 bytes, and keep the first few as examples."""
        self.documents += 1
        self.bytes += size
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append({"id": document.id, "why": why, "text": document.text[:EXAMPLE_CHARACTERS]})

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(
            self.documents + other.documents, self.bytes + other.bytes, (self.examples + other.examples)[:MAX_EXAMPLES]
        )


@dataclass
class StepReport:
    """What went through a step. Bytes are UTF-8; `counters` are counts of a step's own, such as masked e-mails."""

    name: str
    documents_in: int = 0
    bytes_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0
    changed: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def drop(self, document: Document, size: int, drop: Drop) -> None:
        """Count a document that leaves the pipeline here."""
        self.dropped.setdefault(drop.rule, Dropped()).add(document, size, drop.why)

    def __add__(self, other: "StepReport") -> "StepReport":
        total = StepReport(self.name)
        for name in ("documents_in", "bytes_in", "documents_out", "bytes_out", "changed"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        for report in (self, other):
            for rule, dropped in report.dropped.items():
                total.dropped[rule] = total.dropped.get(rule, Dropped()) + dropped
            for counter, value in report.counters.items():
                total.counters[counter] = total.counters.get(counter, 0) + value
        return total

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "StepReport":
        """Build from what `dataclasses.asdict` made of one."""
        report = cls(**data)
        report.dropped = {rule: Dropped(**dropped) for rule, dropped in data["dropped"].items()}
        return report


class CleaningStep(PipelineStep):
    """A step from text to text. A subclass sets `name` (one word, ``snake_case``) and writes `apply`."""

    type = "cleaning"
    name = "step"

    def __init__(self) -> None:
        super().__init__()
        self.report = StepReport(self.name)

    @abstractmethod
    def apply(self, text: str) -> str | Drop:
        """The text as it goes on, or why it does not. Never raises, whatever the text holds."""

    def depends_on(self) -> dict[str, str]:
        """Marks that take the place of settings which only point at what matters, such as the path of a list."""
        return {}

    def count(self, counter: str, value: int = 1) -> None:
        """Add to a counter of the step's own."""
        self.report.counters[counter] = self.report.counters.get(counter, 0) + value

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        report = self.report
        for document in data:
            text = document.text
            size = utf8_size(text)
            report.documents_in += 1
            report.bytes_in += size
            result = self.apply(text)
            if isinstance(result, Drop):
                report.drop(document, size, result)
                self.stat_update("dropped", f"dropped_{result.rule}")
                continue
            if result is not text and result != text:
                report.changed += 1
                document.text = result
                size = utf8_size(result)
            report.documents_out += 1
            report.bytes_out += size
            yield document
        self.stat_update("documents", value=report.documents_out)


def utf8_size(text: str) -> int:
    """UTF-8 bytes of a text; for ASCII, known without encoding it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Counted(PipelineStep):
    """Any other datatrove step, such as one of its own filters, with our counts around it.

    The step must hand documents on in the order they came, as filters and formatters do. A document that does not come
    out was dropped; the rule is the name of the step's class.
    """

    type = "cleaning"

    def __init__(self, name: str, step: PipelineStep) -> None:
        super().__init__()
        self.name = name
        self.step = step
        self.report = StepReport(name)

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        waiting: deque[tuple[Document, str, int]] = deque()
        rule = _snake_case(type(self.step).__name__)
        for document in self.step.run(self._remember(data, waiting), rank, world_size):
            while waiting and waiting[0][0] is not document and waiting[0][0].id != document.id:
                dropped, _, size = waiting.popleft()
                self.report.drop(dropped, size, Drop(rule))
            if waiting:
                _, text, _ = waiting.popleft()
                self.report.changed += int(document.text != text)
            self.report.documents_out += 1
            self.report.bytes_out += utf8_size(document.text)
            yield document
        for dropped, _, size in waiting:
            self.report.drop(dropped, size, Drop(rule))

    def _remember(self, data: Iterable[Document], waiting: deque[tuple[Document, str, int]]) -> Iterator[Document]:
        for document in data:
            size = utf8_size(document.text)
            self.report.documents_in += 1
            self.report.bytes_in += size
            waiting.append((document, document.text, size))
            yield document


def counted(name: str, step: PipelineStep) -> CleaningStep | Counted:
    """A step under the name its configuration gives it, with counts whatever it is."""
    if isinstance(step, CleaningStep):
        step.name = step.report.name = name
        return step
    return Counted(name, step)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
