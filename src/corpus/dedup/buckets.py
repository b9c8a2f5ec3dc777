"""Second pass: which documents share a key. A bucket is a range of the keys, and each is a task of its own.

What is found goes to ``FOLDER/found/KIND-BBBBB-of-NNNNN.pairs``: for ``exact`` and ``minhash`` each document with the
first one that has the key; for ``paragraph`` all occurrences of each line that occurs more than once, since which of
them is the first is known only when the documents that are left out are.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.dedup.records import KEY_SPACE, KEYS, MAX_RECORDS, RecordWriter, by_key_range, global_ids
from src.corpus.dedup.settings import DedupSettings, Kind
from src.corpus.dedup.signatures import signature_file

PAIR = np.dtype([("document", "<u8"), ("first", "<u8")])
OCCURRENCE = np.dtype([("group", "<u8"), ("document", "<u8"), ("line", "<u4")])  # groups are numbered in their file
FOUND: dict[Kind, np.dtype] = {"exact": PAIR, "minhash": PAIR, "paragraph": OCCURRENCE}


def found_file(folder: Path, kind: Kind, bucket: int, buckets: int) -> Path:
    """Where the duplicates of a bucket are."""
    return folder / "found" / f"{kind}-{bucket:05d}-of-{buckets:05d}.pairs"


def find(folder: str | Path, parts: int, kind: Kind, bucket: int, buckets: int, max_records: int = MAX_RECORDS) -> int:
    """Find the equal keys of one bucket in all parts; the number of records written.

    Memory is that of `max_records` records, or of those of the most frequent key.
    """
    folder = Path(folder)
    files = [signature_file(folder, kind, part) for part in range(parts)]
    low, high = (KEY_SPACE * border // buckets for border in (bucket, bucket + 1))
    count = groups = 0
    with RecordWriter(found_file(folder, kind, bucket, buckets)) as writer:
        for slices in by_key_range(files, KEYS[kind], low, high, max_records):
            ids = np.concatenate([global_ids(part, records["document"]) for part, records in enumerate(slices)])
            records = np.concatenate(slices)
            if kind == "paragraph":
                found = _occurrences(records, ids, groups)
                groups += len(np.unique(found["group"]))
            else:
                found = _pairs(records, ids)
            writer.write(found)
            count += len(found)
    return count


def _runs(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of the keys, and whether each record, in that order, has the key of the one before."""
    names = [name for name in ("low", "key") if name in (records.dtype.names or ())]
    keys = [np.ascontiguousarray(records[name]) for name in names]
    order = np.lexsort(keys)
    repeated = np.zeros(len(order), bool)
    if len(order):
        repeated[1:] = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in keys])
    return order, repeated


def _pairs(records: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Each document that does not have its key first, with the one that does; ids of equal keys come in rising."""
    order, repeated = _runs(records)
    members = np.flatnonzero(repeated)
    firsts = np.flatnonzero(~repeated)
    run = np.cumsum(~repeated)[members] - 1
    pairs = np.empty(len(members), PAIR)
    pairs["document"] = ids[order[members]]
    pairs["first"] = ids[order[firsts[run]]]
    return pairs


def _occurrences(records: np.ndarray, ids: np.ndarray, groups: int) -> np.ndarray:
    """All places of the lines that occur more than once, line by line; groups are numbered from `groups` on."""
    order, repeated = _runs(records)
    shared = repeated.copy()
    shared[:-1] |= repeated[1:]
    places = order[shared]
    found = np.empty(len(places), OCCURRENCE)
    found["group"] = groups + np.cumsum(~repeated[shared]) - 1
    found["document"] = ids[places]
    found["line"] = records["line"][places]
    return found


class FindDuplicates(PipelineStep):
    """Task `rank` of `buckets` compares its range of the keys of all parts."""

    type = "deduplication"
    name = "find duplicates"

    def __init__(self, folder: str | Path, settings: DedupSettings, parts: int, buckets: int) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.settings = settings
        self.parts = parts
        self.buckets = buckets

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> None:
        if world_size != self.buckets:
            raise ValueError(f"{self.buckets} buckets need as many tasks, there are {world_size}")
        for kind in self.settings.kinds:
            self.stat_update(f"found_{kind}", value=find(self.folder, self.parts, kind, rank, self.buckets))
