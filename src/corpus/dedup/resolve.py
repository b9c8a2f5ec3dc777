"""Third pass, one task: from shared keys to what is left out of each part.

Documents that share a key, or are connected through others that do, make a cluster; the one with the smallest id stays.
Of a repeated line the first occurrence in a document that stays is kept. Written are, for each part P,

``FOLDER/removed/documents-PPPPP.drops``  document (uint32), reason (uint8: 0 exact, 1 near), id that stays (uint64)
``FOLDER/removed/lines-PPPPP.drops``      document, line (uint32)

in rising order, and ``FOLDER/summary.json``.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.dedup.buckets import FOUND, found_file
from src.corpus.dedup.clusters import MAX_PENDING, Clusters
from src.corpus.dedup.records import open_records, split_id, write_records
from src.corpus.dedup.settings import DedupSettings, Kind

DROPPED_DOCUMENT = np.dtype([("document", "<u4"), ("reason", "u1"), ("kept", "<u8")])
DROPPED_LINE = np.dtype([("document", "<u4"), ("line", "<u4")])
EXACT, NEAR = 0, 1
LARGEST_CLUSTERS = 10
EXAMPLE_IDS = 5


def dropped_documents_file(folder: Path, part: int) -> Path:
    """Where the documents that are left out of a part are."""
    return folder / "removed" / f"documents-{part:05d}.drops"


def dropped_lines_file(folder: Path, part: int) -> Path:
    """Where the lines that are left out of a part are."""
    return folder / "removed" / f"lines-{part:05d}.drops"


def resolve(folder: str | Path, settings: DedupSettings, sources: Sequence[str], buckets: int) -> dict[str, Any]:
    """Decide what is left out, write it for each part, and return the summary.

    sources: the source of each part.
    """
    folder = Path(folder)
    removed, kept, reasons = _documents(folder, settings, buckets)
    documents, lines = _lines(folder, settings, buckets, removed)
    part_borders = np.arange(len(sources) + 1, dtype=np.uint64) << np.uint64(32)
    document_cuts = np.searchsorted(removed, part_borders)
    line_cuts = np.searchsorted(documents, part_borders)
    by_source: dict[str, dict[str, int]] = {}
    for part, source in enumerate(sources):
        own = slice(*document_cuts[part : part + 2])
        drops = np.zeros(own.stop - own.start, DROPPED_DOCUMENT)
        drops["document"] = removed[own] & np.uint64(0xFFFFFFFF)
        drops["reason"], drops["kept"] = reasons[own], kept[own]
        write_records(dropped_documents_file(folder, part), drops)
        own = slice(*line_cuts[part : part + 2])
        line_drops = np.zeros(own.stop - own.start, DROPPED_LINE)
        line_drops["document"], line_drops["line"] = documents[own] & np.uint64(0xFFFFFFFF), lines[own]
        write_records(dropped_lines_file(folder, part), line_drops)
        counts = by_source.setdefault(source, {"exact": 0, "near": 0, "lines": 0})
        counts["exact"] += int((drops["reason"] == EXACT).sum())
        counts["near"] += int((drops["reason"] == NEAR).sum())
        counts["lines"] += len(line_drops)
    summary = {"sources": by_source, **_cluster_summary(removed, kept)}
    _write_json(folder / "summary.json", summary)
    return summary


def _documents(folder: Path, settings: DedupSettings, buckets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids that are left out, rising; the id that stays for each; and why."""
    clusters = Clusters()
    exact = [np.zeros(0, np.uint64)]
    for kind in settings.kinds:
        if kind == "paragraph":
            continue
        for bucket in range(buckets):
            pairs = _found(folder, kind, bucket, buckets)
            for start in range(0, len(pairs), MAX_PENDING):
                some = pairs[start : start + MAX_PENDING]
                clusters.add(np.array(some["document"]), np.array(some["first"]))
            if kind == "exact":
                exact.append(np.array(pairs["document"]))
    removed, kept = clusters.result()
    copies = np.sort(np.concatenate(exact))
    places = np.searchsorted(copies, removed)
    is_exact = np.zeros(len(removed), bool)
    inside = places < len(copies)
    is_exact[inside] = copies[places[inside]] == removed[inside]
    return removed, kept, np.where(is_exact, EXACT, NEAR)


def _lines(folder: Path, settings: DedupSettings, buckets: int, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents and numbers of the lines that are left out, rising."""
    documents, lines = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
    if settings.paragraphs is not None:
        for bucket in range(buckets):
            found = _found(folder, "paragraph", bucket, buckets)
            places = np.searchsorted(removed, found["document"])
            stays = np.ones(len(found), bool)
            inside = places < len(removed)
            stays[inside] = removed[places[inside]] != found["document"][inside]
            found = found[stays]  # groups stay together, their occurrences in order
            repeated = np.zeros(len(found), bool)
            repeated[1:] = found["group"][1:] == found["group"][:-1]
            documents.append(found["document"][repeated])
            lines.append(found["line"][repeated])
    all_documents, all_lines = np.concatenate(documents), np.concatenate(lines)
    order = np.lexsort((all_lines, all_documents))
    return all_documents[order], all_lines[order]


def _found(folder: Path, kind: Kind, bucket: int, buckets: int) -> np.ndarray:
    return open_records(found_file(folder, kind, bucket, buckets), FOUND[kind])


def _cluster_summary(removed: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """How many clusters there are of each size, and the largest ones with the ids of their first documents."""
    roots, others = np.unique(kept, return_counts=True)
    sizes, numbers = np.unique(others + 1, return_counts=True)
    largest = []
    for index in np.argsort(-others, kind="stable")[:LARGEST_CLUSTERS]:
        members = [int(roots[index]), *removed[kept == roots[index]][: EXAMPLE_IDS - 1].tolist()]
        examples = [dict(zip(("part", "document"), split_id(member), strict=True)) for member in members]
        largest.append({"documents": int(others[index]) + 1, "examples": examples})
    histogram = {str(size): number for size, number in zip(sizes.tolist(), numbers.tolist(), strict=True)}
    return {"clusters": len(roots), "cluster_sizes": histogram, "largest_clusters": largest}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class ResolveDuplicates(PipelineStep):
    """The one task between finding and leaving out."""

    type = "deduplication"
    name = "resolve duplicates"

    def __init__(self, folder: str | Path, settings: DedupSettings, sources: Sequence[str], buckets: int) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.settings = settings
        self.sources = tuple(sources)
        self.buckets = buckets

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> None:
        if world_size != 1:
            raise ValueError(f"duplicates are resolved by one task, there are {world_size}")
        summary = resolve(self.folder, self.settings, self.sources, self.buckets)
        for counts in summary["sources"].values():
            for kind, count in counts.items():
                self.stat_update(f"removed_{kind}", value=count)
