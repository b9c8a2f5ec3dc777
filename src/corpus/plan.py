"""The plan of a run: which parts of which files make which shards, fixed before the first document is read.

The plan depends on the input files and the settings alone, never on how many processes will carry it out, so a run that
was killed can go on, and shards are the same byte for byte on one core and on a cluster. It is written into the work
folder, where every task reads it.
"""

import hashlib
import json
import os
import pickle
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.corpus.dedup.settings import DedupSettings
from src.corpus.readers import Part, Reading
from src.corpus.sentences import Language
from src.corpus.steps import CleaningStep, Counted
from src.shards.manifest import Manifest

PLAN_FILE = "plan.pickle"


@dataclass
class PlannedSource:
    """One source: how it is read, cleaned and cut.

    manifest: as far as it is known before the first document.
    parts: what its tasks read, one each.
    first_task: number of the task of its first part.
    steps: the cleaning steps, fresh ones; a task works on copies.
    writes: False where shards are there already and the source is only read to find duplicates of it in later ones.
    measures: whether the validation split's minimum is guaranteed, for which the texts' sizes are gathered first.
    """

    name: str
    language: Language
    manifest: Manifest
    reading: Reading
    parts: tuple[Part, ...]
    first_task: int
    input_bytes: int
    steps: list[CleaningStep | Counted] = field(default_factory=list)
    writes: bool = True
    measures: bool = False


@dataclass
class Plan:
    """Everything the tasks of a run need to know.

    names: all sources of the corpus, also those that are made already.
    sources: those that have tasks, in the order of the corpus.
    settings: what the report says of the run.
    begun: when it was planned, seconds since 1970.
    """

    corpus: str
    output_dir: Path
    tokenizer: Path
    max_length: int
    max_bad_fraction: float
    validation_fraction: float
    min_validation_bytes: int
    dedup: DedupSettings
    names: list[str]
    sources: list[PlannedSource]
    settings: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.time)

    @property
    def work(self) -> Path:
        """The hidden folder in which everything lies until it is complete."""
        return self.output_dir / ".work"

    @property
    def tasks(self) -> int:
        """Number of parts over all sources."""
        return sum(len(source.parts) for source in self.sources)

    @property
    def two_passes(self) -> bool:
        """Whether texts are kept on disk after cleaning, because which of them go where is only known afterwards."""
        return bool(self.dedup.kinds) or any(source.measures for source in self.sources)

    def source_of(self, task: int) -> tuple[PlannedSource, int]:
        """The source of a task, and which of the source's parts it is."""
        for source in self.sources:
            if task < source.first_task + len(source.parts):
                return source, task - source.first_task
        raise IndexError(f"task {task} of {self.tasks}")

    def part_name(self, task: int) -> str:
        """What messages call the part of a task."""
        source, part = self.source_of(task)
        return f"part {part} of source '{source.name}'"

    @property
    def fingerprint(self) -> str:
        """Equal for equal work: hash of all the settings the shards depend on."""
        parts = [[source.manifest.settings, source.writes, len(source.parts)] for source in self.sources]
        described = [
            self.corpus,
            self.max_length,
            [source.manifest.tokenizer_fingerprint for source in self.sources],
            parts,
        ]
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()

    def save(self) -> None:
        """Write the plan into the work folder."""
        self.work.mkdir(parents=True, exist_ok=True)
        temporary = self.work / f"{PLAN_FILE}.tmp"
        temporary.write_bytes(pickle.dumps(self))
        os.replace(temporary, self.work / PLAN_FILE)
        (self.work / "fingerprint").write_text(self.fingerprint)

    def is_begun(self) -> bool:
        """Whether the work folder holds this very plan, from a run that did not come to its end."""
        file = self.work / "fingerprint"
        return file.is_file() and file.read_text() == self.fingerprint

    @staticmethod
    def load(work: str | Path) -> "Plan":
        """The plan in a work folder; read once a process."""
        file = Path(work) / PLAN_FILE
        return _load(str(file), file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(file: str, written_ns: int) -> Plan:
    return pickle.loads(Path(file).read_bytes())


def number_tasks(sources: Iterable[PlannedSource]) -> list[PlannedSource]:
    """The sources with their tasks numbered through; the order is the priority among duplicates."""
    numbered: list[PlannedSource] = []
    first = 0
    for source in sources:
        numbered.append(replace(source, first_task=first))
        first += len(source.parts)
    return numbered


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes laid over them, to any depth; None takes an entry out."""
    result = dict(settings)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
