"""The datatrove steps a corpus run is made of, one task a part of the input.

- One pass: ReadPart → CleanPart → WriteShards.
- Two passes: ReadPart → CleanPart → (StoreSignatures) → StoreCleaned, and then
  LoadCleaned → (DropDuplicates) → WriteShards.

Two are needed where something must be known of all texts before the first is written: which are duplicates, or how many
make a validation split that is large enough. A task writes its files under temporary names and renames them when it has
come to its end; its counts go into ``results/<kind>-<task>.json``.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.dedup import apply, signatures
from src.corpus.dedup.settings import ParagraphSettings
from src.corpus.plan import Plan
from src.corpus.progress import Pace
from src.corpus.readers import ReadReport, read_part
from src.corpus.report.counts import LENGTH_BINS, SIZE_BINS
from src.corpus.segment import SegmentedDocument, segment, tokenize
from src.corpus.steps import utf8_size
from src.errors import UserError
from src.models.tokenizer import TextEncoder, open_encoder
from src.shards.format import ShardWriter, token_dtype
from src.shards.manifest import Counts

EARLY_CHECK_RECORDS = 1000  # from here on too many bad records stop a run before its end
NO_LINE_IS_LONGER = 1 << 40
BLOCK_BYTES = 1 << 20  # cleaned text compressed at once


class PartStep(PipelineStep):
    """A step that knows the plan; `task` numbers are datatrove's ranks."""

    type = "corpus"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    @property
    def plan(self) -> Plan:
        return Plan.load(self.work)


class ReadPart(PartStep):
    """Reads the documents of a part; what cannot be read or has no text is counted."""

    name = "read"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        plan = self.plan
        source, number = plan.source_of(rank)
        report = ReadReport()
        pace = Pace()
        text_bytes = documents = 0
        for document in read_part(source.parts[number], source.reading, report):
            text_bytes += utf8_size(document.text)
            documents += 1
            pace.advance(report.position, documents, text_bytes)
            yield document
            if report.records >= EARLY_CHECK_RECORDS:
                check_bad_records(source.name, report, plan.max_bad_fraction)
        pace.advance(report.position, documents, text_bytes, last=True)
        self.stat_update("documents", value=documents)
        write_result(self.work, "read", rank, report.to_dict())


class CleanPart(PartStep):
    """The cleaning steps of the part's source, one after another."""

    name = "clean"

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        source, _ = self.plan.source_of(rank)
        steps = deepcopy(source.steps)
        for step in steps:
            data = step.run(data, rank, world_size)
        yield from data
        write_result(self.work, "clean", rank, [asdict(step.report) for step in steps])


class StoreCleaned(PartStep):
    """Keeps the cleaned texts of a part on disk, and where the validation split is measured, their places and sizes."""

    name = "store"

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        began = time.process_time()
        source, _ = self.plan.source_of(rank)
        measured: list[tuple[float, int]] = []
        target = cleaned_file(self.work, rank)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.tmp")
        with temporary.open("wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as stream:
            for document in data:
                stream.write(orjson.dumps([document.id, document.text]) + b"\n")
                if source.measures:
                    measured.append((split_position(document.text), utf8_size(document.text)))
        os.replace(temporary, target)
        write_result(self.work, "store", rank, {"sizes": measured, "cpu_seconds": time.process_time() - began})


class LoadCleaned(PartStep):
    """Reads back what `StoreCleaned` kept."""

    name = "load"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        pace = Pace()
        documents = text_bytes = 0
        with cleaned_file(self.work, rank).open("rb") as raw:
            lines = _lines(zstandard.ZstdDecompressor().stream_reader(raw))
            for line in lines:
                identity, text = orjson.loads(line)
                documents += 1
                text_bytes += utf8_size(text)
                pace.advance(raw.tell(), documents, text_bytes)
                yield Document(text, identity)
            pace.advance(raw.tell(), documents, text_bytes, last=True)


class StoreSignatures(PartStep):
    """Lets documents through and keeps the keys by which duplicates of them are found."""

    name = "store signatures"

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        source, _ = self.plan.source_of(rank)
        settings = self.plan.dedup
        if settings.paragraphs is not None and source.language == "code":  # lines of code come back for good reasons
            settings = replace(settings, paragraphs=ParagraphSettings(min_characters=NO_LINE_IS_LONGER))
        step = signatures.StoreSignatures(duplicates_folder(self.work), settings, source.name)
        yield from step.run(data, rank, world_size)


class DropDuplicates(PartStep):
    """Leaves out what was found to be a duplicate."""

    name = "drop duplicates"

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        source, _ = self.plan.source_of(rank)
        if not source.writes:
            return
        step = apply.DropDuplicates(duplicates_folder(self.work))
        yield from step.run(data, rank, world_size)
        write_result(self.work, "duplicates", rank, asdict(step.report))


class WriteShards(PartStep):
    """Tokenizes and cuts the documents of a part and writes a shard of each split."""

    name = "write shards"

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        began = time.process_time()
        plan = self.plan
        source, number = plan.source_of(rank)
        if not source.writes:
            return
        settings = source.manifest.settings
        encoder = _encoder(plan.tokenizer)
        threshold = validation_share(plan, source.name)
        folder = self.work / "shards" / source.name
        counts = ShardCounts(plan.max_length)
        writers: dict[str, ShardWriter] = {}
        files: dict[str, dict[str, Any]] = {}
        cut = segment(
            tokenize(data, encoder), encoder, source.language, plan.max_length, settings["bos_id"], settings["eos_id"]
        )
        try:
            for document in cut:
                split = "validation" if split_position(document.document.text) < threshold else "train"
                if split not in writers:
                    writers[split] = ShardWriter(folder / f"{split}-{number:05d}", token_dtype(encoder.vocab_size))
                writers[split].add_document(document.segments())
                counts.add(split, document)
            for writer in writers.values():
                writer.close()
                files |= {name: asdict(file_sum) for name, file_sum in writer.sums.items()}
        except BaseException:
            for writer in writers.values():
                writer.abort()
            raise
        self.stat_update("tokens", value=sum(split.tokens for split in counts.splits.values()))
        write_result(
            self.work,
            "write",
            rank,
            {
                **counts.to_dict(),
                "files": files,
                "engine": encoder.engine,
                "cpu_seconds": time.process_time() - began,
            },
        )


class ShardCounts:
    """What a task wrote: sizes of the splits, and histograms of the lengths of documents and segments in tokens."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.splits: dict[str, Counts] = {}
        self.document_lengths = np.zeros(SIZE_BINS, dtype=np.int64)
        self.segment_lengths = np.zeros(LENGTH_BINS, dtype=np.int64)

    def add(self, split: str, document: SegmentedDocument) -> None:
        """Count one document."""
        tokens, segments = len(document.ids), len(document.ends)
        self.splits[split] = self.splits.get(split, Counts()) + Counts(1, segments, tokens, len(document.raw))
        self.document_lengths[tokens.bit_length()] += 1
        if segments == 1:
            self.segment_lengths[self._bin(tokens)] += 1
            return
        lengths = np.diff(document.ends, prepend=0)
        self.segment_lengths += np.bincount((lengths - 1) * LENGTH_BINS // self.max_length, minlength=LENGTH_BINS)

    def _bin(self, tokens: int) -> int:
        return max(tokens - 1, 0) * LENGTH_BINS // self.max_length

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a result file."""
        return {
            "splits": {split: asdict(counts) for split, counts in self.splits.items()},
            "document_lengths": self.document_lengths.tolist(),
            "segment_lengths": self.segment_lengths.tolist(),
        }


@lru_cache(maxsize=1)
def _encoder(path: Path) -> TextEncoder:
    return open_encoder(path)


def cleaned_file(work: Path, task: int) -> Path:
    """Where the cleaned texts of a task lie."""
    return work / "cleaned" / f"{task:05d}.jsonl.zst"


def duplicates_folder(work: Path) -> Path:
    """Where the keys of all documents and what was found with them lie."""
    return work / "duplicates"


def result_file(work: Path, kind: str, task: int) -> Path:
    """Where a task puts its counts of one kind."""
    return work / "results" / f"{kind}-{task:05d}.json"


def write_result(work: Path, kind: str, task: int, result: Any) -> None:
    """Write a task's counts, whole or not at all."""
    file = result_file(work, kind, task)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, file)


def read_result(work: Path, kind: str, task: int) -> Any:
    """What `write_result` wrote."""
    return json.loads(result_file(work, kind, task).read_text(encoding="utf-8"))


def split_position(text: str) -> float:
    """Place of a text in [0, 1) by its hash: equal texts fall into the same split, in every run and order."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") / 2**64


def validation_share(plan: Plan, source: str) -> float:
    """Position below which the documents of a source make the validation split."""
    file = plan.work / "validation.json"
    shares = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return shares.get(source, plan.validation_fraction)


def check_bad_records(source: str, report: ReadReport, max_bad_fraction: float) -> None:
    """Raise a `UserError` with the first examples where too much of a source could not be read."""
    bad = report.bad.total()
    if bad > max_bad_fraction * max(report.records, 1):
        found, whole, unit = bad, report.records, "records"
    elif report.lost_bytes > max_bad_fraction * max(report.input_bytes, 1):
        found, whole, unit = report.lost_bytes, report.input_bytes, "input bytes"
    else:
        return
    examples = "; ".join(map(str, report.examples[:3]))
    raise UserError(
        f"{found} of {whole} {unit} of source '{source}' cannot be read, more than max_bad_fraction={max_bad_fraction} "
        f"allows ({examples}): mend the input, set text_field, or raise max_bad_fraction"
    )


def _lines(stream: zstandard.ZstdDecompressionReader) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        yield from lines
