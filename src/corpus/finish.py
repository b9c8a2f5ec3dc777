"""The end of a run: which documents validate, and giving finished shards, manifests and the report their places."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from src.corpus.dedup.records import open_records
from src.corpus.dedup.resolve import DROPPED_DOCUMENT, dropped_documents_file
from src.corpus.plan import REQUEST_FILE, Plan, PlannedSource
from src.corpus.readers import ReadReport
from src.corpus.report import (
    BadExample,
    BadRecords,
    CorpusReport,
    DuplicateExample,
    Duplicates,
    Histogram,
    SourceReport,
    write_report,
)
from src.corpus.report.counts import EXACT, NEAR, PARAGRAPHS
from src.corpus.steps import StepReport
from src.corpus.tasks import PartStep, check_bad_records, duplicates_folder, read_result
from src.errors import UserError
from src.shards.atomic import FileSum
from src.shards.manifest import Counts, Manifest
from src.shards.packing import pack
from src.shards.source import Source

logger = logging.getLogger(__name__)

REPORT_FILE = "report.json"
PLANNED_SEGMENTS = 10_000_000  # the fill after packing is worked out up to so many segments, in some seconds


class MeasureSplits(PartStep):
    """Decides how many documents of each small source validate, now that the size of every text is known."""

    name = "measure splits"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        plan = self.plan
        shares = {}
        for source in plan.sources:
            if source.measures and source.writes:
                sizes = [size for task in tasks_of(source) for size in self._sizes(plan, task)]
                shares[source.name] = validation_threshold(sizes, plan.validation_fraction, plan.min_validation_bytes)
        (plan.work / "validation.json").write_text(json.dumps(shares), encoding="utf-8")

    @staticmethod
    def _sizes(plan: Plan, task: int) -> list[tuple[float, int]]:
        """Place and bytes of the documents of a task that are no duplicates."""
        sizes = read_result(plan.work, "store", task)["sizes"]
        removed = set(duplicates_of(plan, task)["document"].tolist()) if plan.dedup.kinds else set()
        return [(place, size) for index, (place, size) in enumerate(sizes) if index not in removed]


def validation_threshold(sizes: Iterable[tuple[float, int]], fraction: float, min_bytes: int) -> float:
    """Position below which documents make a validation split of `fraction` of them and at least `min_bytes` of text.

    The minimum yields where it would take more than half of the text; a split of zero stays zero.

    Args:
        sizes: `split_position` and UTF-8 bytes of every document.
    """
    if fraction <= 0:
        return 0.0
    ordered = sorted(sizes)
    total = sum(size for _, size in ordered)
    taken = 0
    for position, equal in groupby(ordered, key=itemgetter(0)):  # equal texts have equal places
        size = sum(size for _, size in equal)
        if (position >= fraction and taken >= min_bytes) or (taken + size) * 2 > total:
            return position
        taken += size
    return fraction


class Finish(PartStep):
    """Adds up what the tasks counted, and gives the finished shards their places and the report its page."""

    name = "finish"

    def __init__(self, work: Path, executor: str = "", max_bad_fraction: float = 0.0, keep_work: bool = False) -> None:
        super().__init__(work)
        self.executor = executor
        self.max_bad_fraction = max_bad_fraction
        self.keep_work = keep_work

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        plan = self.plan
        sources = {source.name: gather(plan, source, self.max_bad_fraction) for source in plan.sources if source.writes}
        report = CorpusReport(
            corpus=plan.corpus,
            date=datetime.fromtimestamp(plan.begun, UTC).isoformat(timespec="seconds"),
            seconds=time.time() - plan.begun,
            cpu_seconds=sum(source.cpu_seconds for source in sources.values()),
            executor=self.executor,
            settings=plan.settings | {"engine": ", ".join(sorted(engines(plan)))},
            sources=sources,
        )
        report.check_balance()
        for source in plan.sources:
            if source.writes:
                self._place(plan, source, report.sources[source.name])
        report.sources = {name: sources.get(name) or load_source(plan.output_dir / name) for name in plan.names}
        write_report(report, plan.output_dir)
        (plan.work / REQUEST_FILE).unlink(missing_ok=True)  # the work is done: the next run begins anew
        if not self.keep_work:
            for folder in ("cleaned", "duplicates", "parts", "results", "shards"):
                shutil.rmtree(plan.work / folder, ignore_errors=True)

    def _place(self, plan: Plan, source: PlannedSource, report: SourceReport) -> None:
        """Complete the folder of a source and give it the name under which training looks for it.

        A source that has its place already, from a run that was stopped while it finished, keeps it.
        """
        folder = self.work / "shards" / source.name
        target = plan.output_dir / source.name
        if not folder.exists() and target.exists():
            report.packed_rows = load_source(target).packed_rows
            return
        manifest = source.manifest
        manifest.splits = dict(sorted(report.splits.items()))
        manifest.bad_records = {reason: bad.records for reason, bad in report.bad.items()}
        manifest.empty_documents = report.empty
        for task in tasks_of(source):
            files = read_result(plan.work, "write", task)["files"]
            manifest.files |= {name: FileSum(**file_sum) for name, file_sum in files.items()}
        for name, file_sum in manifest.files.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != file_sum.bytes:
                raise UserError(
                    f"shard {folder / name} is gone or changed: remove {plan.work} and run the command again"
                )
        manifest.save(folder)
        train = manifest.splits.get("train", Counts())
        if 0 < train.segments <= PLANNED_SEGMENTS:
            report.packed_rows = len(pack(Source.open(folder, "train").lengths, plan.max_length))
        (folder / REPORT_FILE).write_text(json.dumps(asdict(report), ensure_ascii=False), encoding="utf-8")
        take_place(folder, target)


def engines(plan: Plan) -> set[str]:
    """The libraries that tokenized."""
    tasks = [task for source in plan.sources if source.writes for task in tasks_of(source)]
    return {read_result(plan.work, "write", task)["engine"] for task in tasks}


def tasks_of(source: PlannedSource) -> range:
    """Numbers of the tasks of a source."""
    return range(source.first_task, source.first_task + source.parts)


def duplicates_of(plan: Plan, task: int) -> np.ndarray:
    """Records of the documents of a task that are duplicates."""
    return open_records(dropped_documents_file(duplicates_folder(plan.work), task), DROPPED_DOCUMENT)


def gather(plan: Plan, source: PlannedSource, max_bad_fraction: float) -> SourceReport:
    """What the tasks of a source counted, together.

    Raises:
        UserError: too much could not be read, or there is no text.
    """
    total = SourceReport(
        source.name,
        source.language,
        plan.max_length,
        len({piece.file for task in tasks_of(source) for piece in plan.part(task)}),
        document_tokens=Histogram.of_sizes(),
        segment_tokens=Histogram.of_lengths(plan.max_length),
    )
    read = ReadReport()
    for task in tasks_of(source):
        part = ReadReport.from_dict(read_result(plan.work, "read", task))
        read += part
        total += task_report(plan, source, task, part)
    total.input_bytes = source.input_bytes
    if plan.dedup.kinds:
        _add_clusters(total, np.concatenate([duplicates_of(plan, task)["kept"] for task in tasks_of(source)]))
    check_bad_records(source.name, read, max_bad_fraction)
    if total.total.documents == 0:
        raise UserError(
            f"source '{source.name}' holds no text to write: of {read.records} records {total.bad_records} cannot be "
            f"read, {total.empty} are empty, cleaning drops {total.dropped} and {total.duplicate_documents} are "
            "duplicates; look at its path and at cleaning.*, or leave it out"
        )
    return total


def task_report(plan: Plan, source: PlannedSource, task: int, read: ReadReport) -> SourceReport:
    """What one task counted."""
    written = read_result(plan.work, "write", task)
    report = SourceReport(
        source.name,
        records=read.records,
        replaced=read.replaced,
        lost_bytes=read.lost_bytes,
        empty=read.empty + written["empty"],
        skipped=dict(read.skipped),
        steps=[StepReport.from_dict(step) for step in read_result(plan.work, "clean", task)],
        splits={split: Counts(**counts) for split, counts in written["splits"].items()},
        document_tokens=Histogram.of_sizes(written["document_lengths"]),
        segment_tokens=Histogram.of_lengths(plan.max_length, written["segment_lengths"]),
        cpu_seconds=written["cpu_seconds"],
    )
    if plan.two_passes:
        report.cpu_seconds += read_result(plan.work, "store", task)["cpu_seconds"]
    if plan.dedup.kinds:
        _add_duplicates(
            report, StepReport.from_dict(read_result(plan.work, "duplicates", task)), plan.dedup.paragraphs is not None
        )
    for reason, records in read.bad.items():
        report.bad[reason] = BadRecords(records)
    for example in read.examples:
        report.bad[example.reason].examples.append(BadExample(example.file, example.place, example.reason))
    return report


RULES = {"exact_duplicate": EXACT, "near_duplicate": NEAR}


def _add_duplicates(report: SourceReport, step: StepReport, paragraphs: bool) -> None:
    """Tell duplicates from repeated paragraphs, of which few make a document disappear."""
    left = StepReport("paragraphs", step.documents_in, step.bytes_in, step.documents_out, step.bytes_out, step.changed)
    for rule, dropped in step.dropped.items():
        if rule not in RULES:
            left.dropped[rule] = dropped
            continue
        examples = [DuplicateExample(shown["id"], shown["why"], shown["text"]) for shown in dropped.examples]
        report.duplicates[RULES[rule]] = Duplicates(dropped.documents, dropped.bytes, examples)
        left.documents_in -= dropped.documents
        left.bytes_in -= dropped.bytes
    if paragraphs:
        report.duplicates[PARAGRAPHS] = Duplicates(step.counters.get("paragraphs", 0), left.bytes_in - left.bytes_out)
        report.steps.append(left)


def _add_clusters(report: SourceReport, kept: np.ndarray) -> None:
    """Put the sizes of the groups of duplicates beside what was found with the wider net."""
    kind = NEAR if NEAR in report.duplicates else EXACT
    if kind in report.duplicates:
        _, others = np.unique(kept, return_counts=True)
        for size, number in zip(*np.unique(others + 1, return_counts=True), strict=True):
            report.duplicates[kind].clusters.counts[int(size).bit_length()] += int(number)


def load_source(folder: Path) -> SourceReport:
    """What is known of a source that was made by an earlier run."""
    file = folder / REPORT_FILE
    if file.is_file():
        return SourceReport.from_dict(json.loads(file.read_text(encoding="utf-8")))
    manifest = Manifest.load(folder)
    return SourceReport(manifest.source, max_length=manifest.max_length, splits=manifest.splits)


def load_report(plan: Plan) -> CorpusReport:
    """The report of sources that are all made, from what lies in their folders."""
    return CorpusReport(
        corpus=plan.corpus,
        settings=plan.settings,
        sources={name: load_source(plan.output_dir / name) for name in plan.names},
    )


def take_place(partial: Path, target: Path) -> None:
    """Give a finished folder its name; what was there before is out of the way first."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
