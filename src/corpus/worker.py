"""One worker's pass over a source: read its share of the documents, tokenize, cut, and write a shard of each split.

Nothing but counts goes back to the parent, so any number of workers costs the parent nothing, and each needs memory for
a batch of text only.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from src.corpus.readers import Document, ReadReport, TxtDocuments, read_documents
from src.corpus.segment import SegmentedDocument, segment, tokenize
from src.corpus.sentences import Language
from src.errors import UserError
from src.models.tokenizer import open_encoder
from src.shards.format import ShardWriter, token_dtype
from src.shards.manifest import Counts

EARLY_CHECK_RECORDS = 1000  # from here on too many bad records stop a run before its end


@dataclass(frozen=True)
class Reading:
    """How the documents of a source are found: what `read_documents` takes."""

    files: tuple[Path, ...]
    text_field: str = "text"
    txt_documents: TxtDocuments = "file"
    max_documents: int | None = None

    def documents(self, worker: int = 0, workers: int = 1, report: ReadReport | None = None) -> Iterator[Document]:
        """The documents of one worker's share."""
        return read_documents(
            self.files,
            text_field=self.text_field,
            txt_documents=self.txt_documents,
            worker=worker,
            workers=workers,
            max_documents=self.max_documents,
            report=report,
        )


@dataclass(frozen=True)
class Job:
    """Everything a worker needs, small enough to be sent to a process.

    validation_below: documents whose `split_position` is below this make the validation split.
    """

    reading: Reading
    folder: Path
    tokenizer: Path
    language: Language
    max_length: int
    bos_id: int | None
    eos_id: int | None
    validation_below: float
    max_bad_fraction: float
    workers: int = 1


@dataclass
class Progress:
    """How far a worker is: input bytes as on disk, documents, and UTF-8 bytes of text."""

    position: int = 0
    documents: int = 0
    text_bytes: int = 0


@dataclass
class Result:
    """What one worker wrote and left out."""

    splits: dict[str, Counts] = field(default_factory=dict)
    report: ReadReport = field(default_factory=ReadReport)
    empty_documents: int = 0


def split_position(text: str) -> float:
    """Place of a text in [0, 1) by its hash: equal texts fall into the same split, in every run and order."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") / 2**64


def run_worker(
    job: Job, worker: int, on_progress: Callable[[Progress, bool], None] = lambda progress, last: None
) -> Result:
    """Write one worker's shards into the job's folder and count them.

    Args:
        on_progress: called after every document, and with True when all is written; may raise to stop the worker.

    Raises:
        UserError: a file is damaged, or more than `max_bad_fraction` of the records are.
    """
    encoder = open_encoder(job.tokenizer)
    result = Result()
    read = job.reading.documents(worker, job.workers, result.report)
    segmented = segment(
        tokenize(_without_empty(read, result), encoder), encoder, job.language, job.max_length, job.bos_id, job.eos_id
    )
    writers: dict[str, ShardWriter] = {}
    progress = Progress()
    try:
        for document in segmented:
            split = "validation" if split_position(document.document.text) < job.validation_below else "train"
            if split not in writers:
                prefix = job.folder / f"{split}-{worker:05d}"
                writers[split] = ShardWriter(prefix, token_dtype(encoder.vocab_size))
            writers[split].add_document(document.segments())
            result.splits[split] = result.splits.get(split, Counts()) + _counts(document)
            progress.position = result.report.position
            progress.documents += 1
            progress.text_bytes += len(document.raw)
            on_progress(progress, False)
            if result.report.records >= EARLY_CHECK_RECORDS:
                check_bad_records(result.report, job.max_bad_fraction)
        for writer in writers.values():
            writer.close()
        progress.position = result.report.position
        on_progress(progress, True)
    except BaseException:
        for writer in writers.values():
            writer.abort()
        raise
    return result


def _without_empty(documents: Iterable[Document], result: Result) -> Iterator[Document]:
    for document in documents:
        if document.text:
            yield document
        else:
            result.empty_documents += 1


def _counts(document: SegmentedDocument) -> Counts:
    return Counts(1, len(document.ends), len(document.ids), len(document.raw))


def check_bad_records(report: ReadReport, max_bad_fraction: float) -> None:
    """Raise a `UserError` with the first examples where too many records could not be read."""
    bad = report.bad.total()
    if bad > max_bad_fraction * report.records:
        examples = "; ".join(report.examples[:3])
        raise UserError(
            f"{bad} of {report.records} records cannot be read, more than max_bad_fraction={max_bad_fraction} allows "
            f"({examples}): mend the input, set text_field, or raise max_bad_fraction"
        )


def validation_threshold(documents: Iterable[Document], fraction: float, min_bytes: int) -> float:
    """Position below which documents make a validation split of `fraction` of them and at least `min_bytes` of text.

    The minimum yields where it would take more than half of the text; a split of zero stays zero.
    """
    if fraction <= 0:
        return 0.0
    sizes = sorted((split_position(document.text), len(document.text.encode("utf-8"))) for document in documents)
    total = sum(size for _, size in sizes)
    taken = 0
    for position, size in sizes:
        if (position >= fraction and taken >= min_bytes) or (taken + size) * 2 > total:
            return position
        taken += size
    return fraction


def be_single_threaded() -> None:
    """Keep tokenizers to one thread in this process; the workers are the parallelism."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
