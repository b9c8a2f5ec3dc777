"""The plan of a run: which parts of which files make which shards, fixed before the first document is read.

The plan depends on the input files and the settings alone, never on how many processes will carry it out, so a run that
was killed can go on, and shards are the same byte for byte on one core and on a cluster. It is written into the work
folder, where every task reads it.
"""

import pickle
import shutil
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
REQUEST_FILE = "request"  # there while the work is not done


@dataclass
class PlannedSource:
    """One source: how it is read, cleaned and cut.

    manifest: as far as it is known before the first document.
    parts: how many tasks read it; what each reads lies in a file of its own.
    first_task: number of the first of them.
    steps: the cleaning steps, fresh ones; a task works on copies.
    writes: False where shards are there already and the source is only read to find duplicates of it in later ones.
    measures: whether the validation split's minimum is guaranteed, for which the texts' sizes are gathered first.
    """

    name: str
    language: Language
    manifest: Manifest
    reading: Reading
    parts: int
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
    request: digest of what was asked for; a run that was stopped goes on where it is the same.
    begun: when it was planned, seconds since 1970.
    """

    corpus: str
    output_dir: Path
    tokenizer: Path
    max_length: int
    validation_fraction: float
    min_validation_bytes: int
    dedup: DedupSettings
    names: list[str]
    sources: list[PlannedSource]
    request: str
    settings: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.time)

    @property
    def work(self) -> Path:
        """The hidden folder in which everything lies until it is complete."""
        return self.output_dir / ".work"

    @property
    def tasks(self) -> int:
        """Number of parts over all sources."""
        return sum(source.parts for source in self.sources)

    @property
    def two_passes(self) -> bool:
        """Whether texts are kept on disk after cleaning, because which of them go where is only known afterwards."""
        return bool(self.dedup.kinds) or any(source.measures for source in self.sources)

    def source_of(self, task: int) -> tuple[PlannedSource, int]:
        """The source of a task, and which of the source's parts it is."""
        for source in self.sources:
            if task < source.first_task + source.parts:
                return source, task - source.first_task
        raise IndexError(f"task {task} of {self.tasks}")

    def save(self, parts: Iterable[Part]) -> None:
        """Write the plan into a new work folder, and what each task reads; the fingerprint says that it is complete."""
        (self.work / "parts").mkdir(parents=True)
        for task, part in enumerate(parts):
            (self.work / "parts" / f"{task:05d}.pickle").write_bytes(pickle.dumps(part))
        (self.work / PLAN_FILE).write_bytes(pickle.dumps(self))
        (self.work / REQUEST_FILE).write_text(self.request)

    def part(self, task: int) -> Part:
        """What a task reads."""
        part: Part = pickle.loads((self.work / "parts" / f"{task:05d}.pickle").read_bytes())
        return part

    @staticmethod
    def load(work: str | Path) -> "Plan":
        """The plan in a work folder; read once a process."""
        file = Path(work) / PLAN_FILE
        return _load(str(file), file.stat().st_mtime_ns)


def begun(work: Path) -> Plan | None:
    """The plan of a run that did not come to its end, None where there is none."""
    return Plan.load(work) if (work / REQUEST_FILE).is_file() else None


def discard(work: Path) -> None:
    """Remove a work folder; first what says that there is a plan in it, so that half of one is never gone on with."""
    (work / REQUEST_FILE).unlink(missing_ok=True)
    if work.exists():
        shutil.rmtree(work)


@lru_cache(maxsize=1)
def _load(file: str, written_ns: int) -> Plan:
    return pickle.loads(Path(file).read_bytes())


def number_tasks(sources: Iterable[PlannedSource]) -> list[PlannedSource]:
    """The sources with their tasks numbered through; the order is the priority among duplicates."""
    numbered: list[PlannedSource] = []
    first = 0
    for source in sources:
        numbered.append(replace(source, first_task=first))
        first += source.parts
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
