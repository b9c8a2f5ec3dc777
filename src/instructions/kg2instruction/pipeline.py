"""The run from dumps to records: its plan, its stages and its end.

Stages: Wikidata into the index; Wikipedia's pages into parts; redirects; parts into records; all of it together. They
are datatrove pipelines that `src.corpus.executors` carries out on this machine, on Slurm or on Ray. A run that is
stopped goes on where it was; the same files come out whatever the number of processes.
"""

import functools
import hashlib
import json
import logging
import shutil
import sqlite3
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from filelock import FileLock, Timeout
from rich.console import Console

from src.corpus.executors import Executor, Local, Stage, check_queue
from src.corpus.report import PipelineProgress
from src.errors import UserError
from src.instructions.kg2instruction import steps
from src.instructions.kg2instruction.dump_files import find_dumps
from src.instructions.kg2instruction.dumps import CollectRedirects, DumpStep, ReadWikidata, SplitPages
from src.instructions.kg2instruction.index import KnowledgeIndex, index_request
from src.instructions.kg2instruction.settings import Settings
from src.instructions.kg2instruction.vocabulary import FILE, check_language, load_vocabulary
from src.instructions.kg2instruction.work import Work, read_rows, write_json

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same dumps give other records
MAX_PARTS = 128  # of one Wikipedia file; all are open at once while its pages are dealt out
SPLITS = ("train", "validation", "test")
COUNTED = (  # the steps whose counts the report has
    *("wikidata", "pages", "read", "choose", "wikitext", "mentions", "passages", "relate", "topic"),
    *("completion", "entailment", "records"),
)
REPORT, SCHEMA = "report.json", "schema.json"


def make_records(
    settings: Settings, executor: Executor | None = None, console: Console | None = None
) -> dict[str, Any] | None:
    """Make the data set: ``train.jsonl``, ``validation.jsonl``, ``test.jsonl``, ``schema.json``, ``report.json``.

    Returns:
        The report; None where the executor only queues the work.

    Raises:
        UserError: dumps that are missing or damaged, or an output folder that holds something else.
    """
    executor = executor or Local()
    work = plan(settings)
    report = settings.output / REPORT
    if report.is_file():
        found = json.loads(report.read_text(encoding="utf-8"))
        if found["request"] == work.request and not settings.overwrite:
            logger.info("%s is made already with these settings", settings.output)
            return found  # type: ignore[no-any-return]
        if not settings.overwrite:
            raise UserError(
                f"{settings.output} was made with other settings or from other files: give overwrite=true or output=…"
            )
    settings.output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.output / ".lock")
    try:
        with lock.acquire(timeout=0):
            _run(work, executor, console or Console(file=sys.stderr))
    except Timeout:
        raise UserError(f"another run is writing to {settings.output}: wait for it, or give another output=…") from None
    return json.loads(report.read_text(encoding="utf-8")) if executor.waits else None  # type: ignore[no-any-return]


def _run(work: Work, executor: Executor, console: Console) -> None:
    settings = work.settings
    logs = settings.output / ".work" / "logs"
    check_queue(logs)
    begun = settings.output / ".work" / "request.json"
    if begun.is_file() and begun.read_text(encoding="utf-8") != work.request:
        shutil.rmtree(settings.output / ".work")
    work.folder.mkdir(parents=True, exist_ok=True)
    begun.write_text(work.request, encoding="utf-8")
    with PipelineProgress(console) as progress:
        executor.run(stages(work), logs, progress.update)
    if executor.waits and not settings.keep_work:
        shutil.rmtree(settings.output / ".work")


def plan(settings: Settings) -> Work:
    """Find the dumps and say what is to be done with them.

    Raises:
        UserError: a dump is missing, or the index was made from other files.
    """
    wikipedia = find_dumps(settings.wikipedia, (".xml",), "Wikipedia dump")
    wikidata = find_dumps(settings.wikidata, (".json", ".jsonl"), "Wikidata dump") if settings.wikidata else []
    index = settings.index or settings.output / "wikidata.sqlite"
    if not wikidata and not index.is_file():
        raise UserError("neither wikidata=… nor an index that exists is given: give Wikidata's JSON dump")
    if index.is_file():
        _check_index(index, wikidata, settings)
    language = check_language(settings.language)
    own = {"output", "index", "overwrite", "keep_work", "wikidata", "wikipedia", "ner", "completion"}
    asked = {key: value for key, value in asdict(settings).items() if key not in own}
    asked |= {"ner": _described(settings.ner), "completion": _described(settings.completion)}
    asked |= {"version": VERSION, "vocabulary": hashlib.sha256(FILE.read_bytes()).hexdigest()}
    asked |= {"files": [[file.name, file.stat().st_size] for file in wikipedia]}
    asked |= {"wikidata": index_request(wikidata, language) if wikidata else _request_of(index)}
    parts = tuple(min(MAX_PARTS, 1 + file.stat().st_size // settings.part_bytes) for file in wikipedia)
    request = json.dumps(asked, ensure_ascii=False, sort_keys=True, default=str)
    folder = settings.output / ".work" / "files"
    return Work(folder, request, settings, index, tuple(wikidata), tuple(wikipedia), parts)


def _described(hook: Any) -> Any:
    """A function and its arguments as text that is the same in every run."""
    if isinstance(hook, functools.partial):
        return [_described(hook.func), repr(hook.args), repr(hook.keywords)]
    return None if hook is None else f"{hook.__module__}.{hook.__qualname__}"


def _check_index(index: Path, wikidata: list[Path], settings: Settings) -> None:
    """Refuse an index that was made from other files; with ``overwrite`` it is made again."""
    KnowledgeIndex(index, settings.language)  # type: ignore[arg-type]
    if wikidata and _request_of(index) != index_request(wikidata, settings.language):  # type: ignore[arg-type]
        if not settings.overwrite:
            raise UserError(
                f"{index} was made from other files or for other properties: leave wikidata=… away to use it all the "
                "same, or give overwrite=true or another index=…"
            )
        index.unlink()


def _request_of(index: Path) -> str:
    """What an index was made from."""
    base = sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True)
    found = base.execute("select value from meta where key = 'request'").fetchone()
    base.close()
    return str(found[0])


def stages(work: Work) -> list[Stage]:
    """The stages of a run in order; Wikidata is not read where its index is there."""
    settings = work.settings
    size = sum(file.stat().st_size for file in work.wikidata)
    pages = sum(file.stat().st_size for file in work.wikipedia)
    read = [] if work.index.is_file() else [Stage("read wikidata", [ReadWikidata(work)], 1, size)]
    optional: list[PipelineStep] = []
    if settings.completion is not None:
        optional.append(steps.AddFoundTriples(work))
    if settings.entailment is not None:
        optional.append(steps.FilterByEntailment(work))
    make: list[PipelineStep] = [
        steps.ReadPages(work),
        steps.ChoosePages(work),
        steps.ReadWikitext(work),
        steps.FindMentions(work),
        steps.CutPassages(work),
        steps.Relate(work),
        steps.LimitToTopic(work),
        *optional,
        steps.WriteRecords(work),
    ]
    return [
        *read,
        Stage("read pages", [SplitPages(work)], len(work.wikipedia), pages),
        Stage("read redirects", [CollectRedirects(work)], 1),
        Stage("make records", make, work.tasks),
        Stage("finish", [Finish(work)], 1),
    ]


class Finish(DumpStep):
    """Puts the parts together, leaves out texts that came before, and writes the report."""

    name = "finish"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        work = self.work
        output = work.settings.output
        seen: set[bytes] = set()
        counts = {split: Counter[str]() for split in SPLITS}
        topics, relations = Counter[str](), Counter[str]()
        files = {split: (output / f"{split}.jsonl.tmp").open("w", encoding="utf-8") for split in SPLITS}
        repeated = 0
        for task in range(work.tasks):
            for split, record in read_rows(work.records(task)):
                digest = bytes.fromhex(record["id"])[:16]
                if digest in seen:
                    repeated += 1
                    continue
                seen.add(digest)
                files[split].write(json.dumps(record, ensure_ascii=False) + "\n")
                counts[split].update(records=1, triples=len(record["relation"]), entities=len(record["entity"]))
                topics[record["cate"]] += 1
                relations.update(triple["relation"] for triple in record["relation"])
        for split, file in files.items():
            file.close()
            (output / f"{split}.jsonl.tmp").replace(output / f"{split}.jsonl")
        write_json(output / SCHEMA, load_vocabulary().schema(work.language))
        write_json(output / REPORT, self._report(counts, topics, relations, repeated))

    def _report(
        self, counts: dict[str, Counter[str]], topics: Counter[str], relations: Counter[str], repeated: int
    ) -> dict[str, Any]:
        return {
            "splits": {split: dict(found) for split, found in counts.items()},
            "topics": dict(topics.most_common()),
            "relations": dict(relations.most_common()),
            "repeated_texts": repeated,
            "steps": {name: found for name in COUNTED if (found := self.work.read_counts(name))},
            "index": KnowledgeIndex(self.work.index, self.work.language).counts(),
            "request": self.work.request,
        }
