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
from collections import deque
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

EARLY_CHECK_RECORDS = 1000  # a part of so many records, most of them bad, stops a run before its end
PLACE = "split_position"  # of the text whose size was measured, before repeated paragraphs were taken out
GROUP_DOCUMENTS = 256  # written at once
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
        source, _ = plan.source_of(rank)
        report = ReadReport()
        pace = Pace()
        text_bytes = documents = 0
        for document in read_part(plan.part(rank), source.reading, report):
            text_bytes += utf8_size(document.text)
            documents += 1
            pace.advance(report.position, documents, text_bytes)
            yield document
            check_early(source.name, report)
        check_early(source.name, report)
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
        if not source.writes:  # only read for the keys of its documents
            deque(data, maxlen=0)
            return
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
        source, _ = self.plan.source_of(rank)
        if not source.writes:
            return
        pace = Pace()
        documents = text_bytes = 0
        with cleaned_file(self.work, rank).open("rb") as raw:
            lines = _lines(zstandard.ZstdDecompressor().stream_reader(raw))
            for line in lines:
                identity, text = orjson.loads(line)
                documents += 1
                text_bytes += utf8_size(text)
                pace.advance(raw.tell(), documents, text_bytes)
                yield Document(text, identity, metadata={PLACE: split_position(text)} if source.measures else {})
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
        splits: dict[str, SplitWriter] = {}
        cut = segment(
            tokenize(data, encoder), encoder, source.language, plan.max_length, settings["bos_id"], settings["eos_id"]
        )
        empty = 0
        try:
            for document in cut:
                if not document.raw or not len(document.ids):
                    empty += 1
                    continue
                place = document.document.metadata.get(PLACE)
                place = split_position(document.raw) if place is None else place
                split = "validation" if place < threshold else "train"
                if split not in splits:
                    shard = ShardWriter(folder / f"{split}-{number:05d}", token_dtype(encoder.vocab_size))
                    splits[split] = SplitWriter(shard, plan.max_length)
                splits[split].add(document)
            for writer in splits.values():
                writer.close()
        except BaseException:
            for writer in splits.values():
                writer.shard.abort()
            raise
        self.stat_update("tokens", value=sum(writer.counts.tokens for writer in splits.values()))
        result = {
            "splits": {split: asdict(writer.counts) for split, writer in splits.items()},
            "document_lengths": sum(
                (writer.document_lengths for writer in splits.values()), _zeros(SIZE_BINS)
            ).tolist(),
            "segment_lengths": sum(
                (writer.segment_lengths for writer in splits.values()), _zeros(LENGTH_BINS)
            ).tolist(),
            "files": {name: asdict(file) for writer in splits.values() for name, file in writer.shard.sums.items()},
            "empty": empty,
            "engine": encoder.engine,
            "cpu_seconds": time.process_time() - began,
        }
        write_result(self.work, "write", rank, result)


class SplitWriter:
    """Writes the documents of one split some hundred at a time, and counts them.

    Besides the sizes it keeps histograms of the lengths in tokens: of documents by powers of two, of segments evenly up
    to the longest.
    """

    def __init__(self, shard: ShardWriter, max_length: int) -> None:
        self.shard = shard
        self.max_length = max_length
        self.counts = Counts()
        self.document_lengths = _zeros(SIZE_BINS)
        self.segment_lengths = _zeros(LENGTH_BINS)
        self._group: list[SegmentedDocument] = []

    def add(self, document: SegmentedDocument) -> None:
        """Take one document that has tokens."""
        self._group.append(document)
        if len(self._group) >= GROUP_DOCUMENTS:
            self._flush()

    def close(self) -> None:
        """Write what is left and finish the shard."""
        self._flush()
        self.shard.close()

    def _flush(self) -> None:
        group, self._group = self._group, []
        if not group:
            return
        tokens = np.array([len(document.ids) for document in group])
        segments = np.array([len(document.ends) for document in group])
        ends = np.concatenate([document.ends for document in group])
        lengths = np.diff(ends, prepend=0)
        firsts = np.cumsum(segments) - segments
        lengths[firsts] = ends[firsts]
        self.shard.add_documents(np.concatenate([document.ids for document in group]), lengths, segments)
        size = sum(len(document.raw) for document in group)
        self.counts += Counts(len(group), len(lengths), int(tokens.sum()), size)
        bits = np.frexp(tokens)[1]  # the number of binary digits
        self.document_lengths += np.bincount(bits, minlength=SIZE_BINS)
        self.segment_lengths += np.bincount((lengths - 1) * LENGTH_BINS // self.max_length, minlength=LENGTH_BINS)


def _zeros(bins: int) -> np.ndarray:
    return np.zeros(bins, dtype=np.int64)


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


def split_position(text: str | bytes) -> float:
    """Place of a text in [0, 1) by its hash: equal texts fall into the same split, in every run and order."""
    raw = text.encode("utf-8") if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big") / 2**64


def validation_share(plan: Plan, source: str) -> float:
    """Position below which the documents of a source make the validation split."""
    file = plan.work / "validation.json"
    shares = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return shares.get(source, plan.validation_fraction)


def check_early(source: str, report: ReadReport) -> None:
    """Raise a `UserError` where most of a part cannot be read: that is a wrong setting, not a bad line."""
    bad = report.bad.total()
    if report.records >= EARLY_CHECK_RECORDS and bad * 2 > report.records:
        examples = "; ".join(map(str, report.examples[:3]))
        raise UserError(
            f"{bad} of the first {report.records} records of source '{source}' cannot be read ({examples}): set "
            "text_field or format, or mend the input"
        )


def check_bad_records(source: str, report: ReadReport, max_bad_fraction: float) -> None:
    """Raise a `UserError` with the first examples where too much of a whole source could not be read."""
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
