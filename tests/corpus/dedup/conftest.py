"""The four passes over documents in memory, in one process."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document

from src.corpus.dedup.apply import DropDuplicates
from src.corpus.dedup.buckets import FindDuplicates
from src.corpus.dedup.resolve import ResolveDuplicates
from src.corpus.dedup.settings import DedupSettings
from src.corpus.dedup.signatures import StoreSignatures
from src.corpus.steps import StepReport


@dataclass
class Outcome:
    """What deduplication left, and what it said."""

    documents: list[Document] = field(default_factory=list)
    report: StepReport = field(default_factory=lambda: StepReport("deduplicate"))
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [document.id for document in self.documents]

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]


def documents_of(texts: Sequence[str], part: int) -> list[Document]:
    return [Document(text, f"{part}:{index}") for index, text in enumerate(texts)]


@pytest.fixture(scope="session")
def deduplicate():
    """Run everything: parts are lists of texts; a document's id is ``part:index``."""

    def run(
        folder: Path,
        parts: Sequence[Sequence[str]],
        settings: DedupSettings,
        buckets: int = 1,
        sources=None,
        order=None,
    ) -> Outcome:
        sources = sources or ["source"] * len(parts)
        outcome = Outcome()
        for part in order(len(parts)) if order else range(len(parts)):
            step = StoreSignatures(folder, settings, sources[part])
            assert [d.text for d in step.run(documents_of(parts[part], part), part)] == list(parts[part])
        for bucket in order(buckets) if order else range(buckets):
            FindDuplicates(folder, settings, len(parts), buckets).run(None, bucket, buckets)
        ResolveDuplicates(folder, settings, sources, buckets).run()
        outcome.summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for part, texts in enumerate(parts):
            step = DropDuplicates(folder)
            outcome.documents.extend(step.run(documents_of(texts, part), part))
            outcome.report += step.report
        return outcome

    return run
