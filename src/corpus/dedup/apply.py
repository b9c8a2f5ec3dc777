"""Last pass: leave the duplicates out of a part whose documents come by once more, in the same order."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.dedup.records import open_records, split_id
from src.corpus.dedup.resolve import (
    DROPPED_DOCUMENT,
    DROPPED_LINE,
    EXACT,
    dropped_documents_file,
    dropped_lines_file,
)
from src.corpus.steps import Drop, StepReport, utf8_size
from src.errors import UserError

RULES = {EXACT: ("exact_duplicate", "the same as"), 1 - EXACT: ("near_duplicate", "nearly the same as")}
LIST_RECORDS = 1 << 12  # turned into Python objects at once


class DropDuplicates(PipelineStep):
    """Drops the duplicates of a part and its repeated lines, and counts both in `report`.

    first_part: number of the part that the task of rank 0 handles.
    """

    type = "deduplication"
    name = "deduplicate"

    def __init__(self, folder: str | Path, first_part: int = 0) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.first_part = first_part
        self.report = StepReport(self.name)

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        part = self.first_part + rank
        documents = open_records(dropped_documents_file(self.folder, part), DROPPED_DOCUMENT)
        drops = _rows(documents)
        lines = _rows(open_records(dropped_lines_file(self.folder, part), DROPPED_LINE))
        kept_here = documents["kept"][documents["kept"] >> np.uint64(32) == part] & np.uint64(0xFFFFFFFF)
        names = dict.fromkeys(kept_here.tolist(), "")
        drop, line = next(drops, None), next(lines, None)
        report = self.report
        for index, document in enumerate(data):
            size = utf8_size(document.text)
            report.documents_in += 1
            report.bytes_in += size
            if index in names:
                names[index] = document.id
            if drop is not None and drop[0] == index:
                self._drop(document, size, _reason(drop, part, names))
                drop = next(drops, None)
                continue
            if line is not None and line[0] == index:
                removed = deque[int]()
                while line is not None and line[0] == index:
                    removed.append(line[1])
                    line = next(lines, None)
                text = self._without(document, removed, part)
                if not text.strip():
                    self._drop(document, size, Drop("repeated_paragraphs", f"all {len(removed)} came before"))
                    continue
                document.text = text
                report.changed += 1
                size = utf8_size(text)
            report.documents_out += 1
            report.bytes_out += size
            yield document
        if drop is not None or line is not None:
            raise _mismatch(self.folder, part)
        self.stat_update("documents", value=report.documents_out)

    def _drop(self, document: Document, size: int, drop: Drop) -> None:
        self.report.drop(document, size, drop)
        self.stat_update("dropped", f"dropped_{drop.rule}")

    def _without(self, document: Document, removed: Iterable[int], part: int) -> str:
        """The text without the lines of these numbers and their line ends; all else stays as it is."""
        lines = document.text.split("\n")
        numbers = set(removed)
        if max(numbers) >= len(lines):
            raise _mismatch(self.folder, part)
        counters = self.report.counters
        counters["paragraphs"] = counters.get("paragraphs", 0) + len(numbers)
        return "\n".join(line for number, line in enumerate(lines) if number not in numbers)


def _rows(records: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Records as tuples, a few at a time."""
    for start in range(0, len(records), LIST_RECORDS):
        yield from records[start : start + LIST_RECORDS].tolist()


def _reason(drop: tuple[int, ...], part: int, names: dict[int, str]) -> Drop:
    """Which document stays: by its own id where it passed by, by its place where it is in another part."""
    _, reason, kept = drop
    rule, words = RULES[reason]
    kept_part, kept_index = split_id(kept)
    if kept_part == part:
        return Drop(rule, f"{words} {names[kept_index]}")
    return Drop(rule, f"{words} document {kept_index} of part {kept_part}")


def _mismatch(folder: Path, part: int) -> UserError:
    return UserError(
        f"the duplicates in {folder} were found in other documents than part {part} has now: remove {folder.parent} "
        "and run the same command again"
    )
