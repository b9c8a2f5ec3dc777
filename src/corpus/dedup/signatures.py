"""First pass: the keys of each document of a part, written as sorted files while the documents go by.

``FOLDER/signatures/{exact,minhash,paragraph}-PPPPP.keys`` hold the records of part P as `records` describes them. A
part of any size needs the memory of one batch of text and one run of records; longer parts are sorted in runs on disk.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.dedup.minhash import MinHasher
from src.corpus.dedup.records import (
    KEYS,
    MAX_RECORDS,
    RecordWriter,
    by_key_range,
    sort_records,
    write_records,
)
from src.corpus.dedup.settings import DedupSettings, Kind
from src.corpus.dedup.shingles import shingle_hashes

BATCH_CHARACTERS = 1 << 17
BATCH_DOCUMENTS = 1 << 13


def signature_file(folder: Path, kind: Kind, part: int) -> Path:
    """Where the keys of a part are."""
    return folder / "signatures" / f"{kind}-{part:05d}.keys"


class KeyFile:
    """Collects records of one kind and writes them sorted by key; equal keys stay in the order they came in."""

    def __init__(self, path: Path, kind: Kind, max_records: int = MAX_RECORDS) -> None:
        self.path = path
        self.dtype = KEYS[kind]
        self.max_records = max_records
        self._records: list[np.ndarray] = []
        self._count = 0
        self._runs: list[Path] = []
        for left_over in path.parent.glob(f"{path.name}.run*"):  # of a run that was killed
            left_over.unlink()

    def add(self, records: np.ndarray) -> None:
        self._records.append(records)
        self._count += len(records)
        if self._count >= self.max_records:
            run = self.path.with_name(f"{self.path.name}.run{len(self._runs)}")
            write_records(run, self._take())
            self._runs.append(run)

    def close(self) -> None:
        if not self._runs:
            write_records(self.path, self._take())
            return
        if self._count:
            run = self.path.with_name(f"{self.path.name}.run{len(self._runs)}")
            write_records(run, self._take())
            self._runs.append(run)
        with RecordWriter(self.path) as writer:
            for slices in by_key_range(self._runs, self.dtype, max_records=self.max_records):
                writer.write(sort_records(np.concatenate(slices)))
        self.abort()

    def abort(self) -> None:
        """Remove the runs."""
        for run in self._runs:
            run.unlink(missing_ok=True)
        self._runs = []

    def _take(self) -> np.ndarray:
        records = np.concatenate(self._records) if self._records else np.zeros(0, self.dtype)
        self._records, self._count = [], 0
        return sort_records(records)


class SignatureWriter:
    """Computes the keys of the documents of one part, in the order in which they are added."""

    def __init__(
        self, folder: str | Path, part: int, settings: DedupSettings, source: str = "", max_records: int = MAX_RECORDS
    ) -> None:
        self.settings = settings
        self._salt = _salt(source) if settings.scope == "source" else np.uint64(0)
        self._files = {
            kind: KeyFile(signature_file(Path(folder), kind, part), kind, max_records) for kind in settings.kinds
        }
        self._hasher = MinHasher(settings.minhash) if settings.minhash else None
        self._texts: list[str] = []
        self._characters = 0
        self._documents = 0  # of the batches before

    def add(self, text: str) -> None:
        """Take the next document; its number is the count of those before."""
        self._texts.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS or len(self._texts) >= BATCH_DOCUMENTS:
            self._flush()

    def close(self) -> None:
        """Write what is left and give the files their names."""
        self._flush()
        for file in self._files.values():
            file.close()

    def __enter__(self) -> "SignatureWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            for file in self._files.values():
                file.abort()

    def _flush(self) -> None:
        texts, self._texts, self._characters = self._texts, [], 0
        if not texts:
            return
        if "exact" in self._files:
            self._files["exact"].add(self._records("exact", _digests(texts), np.arange(len(texts))))
        if self._hasher is not None:
            self._files["minhash"].add(self._band_records(self._hasher, texts))
        if self.settings.paragraphs is not None:
            self._files["paragraph"].add(self._line_records(texts, self.settings.paragraphs.min_characters))
        self._documents += len(texts)

    def _records(self, kind: Kind, keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Records of `keys` (``[n]``, or ``[n, 2]`` where they have two halves) for documents of the batch."""
        records = np.zeros(len(keys), KEYS[kind])
        if keys.ndim == 2:
            records["low"] = keys[:, 1]
            keys = keys[:, 0]
        records["key"] = keys ^ self._salt
        records["document"] = documents + self._documents
        return records

    def _band_records(self, hasher: MinHasher, texts: list[str]) -> np.ndarray:
        shingles, counts = shingle_hashes(texts, hasher.settings.ngram)
        documents = np.flatnonzero(counts)
        keys = hasher.keys(hasher.signatures(shingles, counts[documents]))
        return self._records("minhash", keys.T.ravel(), np.repeat(documents, hasher.settings.bands))

    def _line_records(self, texts: list[str], min_characters: int) -> np.ndarray:
        found: list[str] = []
        places: list[tuple[int, int]] = []
        for index, text in enumerate(texts):
            for number, line in enumerate(text.split("\n")):
                content = line.strip()
                if len(content) >= min_characters:
                    found.append(content)
                    places.append((index, number))
        where = np.array(places, np.int64).reshape(-1, 2)
        records = self._records("paragraph", _digests(found), where[:, 0])
        records["line"] = where[:, 1]
        return records


def _digests(texts: list[str]) -> np.ndarray:
    """128-bit BLAKE2b of each text, uint64 ``[texts, 2]``."""
    raw = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, usedforsecurity=False).digest()
        for text in texts
    )
    return np.frombuffer(raw, "<u8").reshape(-1, 2)


def _salt(source: str) -> np.uint64:
    """What keeps the keys of a source apart from those of any other."""
    return np.frombuffer(hashlib.blake2b(source.encode(), digest_size=8).digest(), "<u8")[0]


class StoreSignatures(PipelineStep):
    """Lets documents through unchanged and writes their keys when the last has passed.

    first_part: number of the part that the task of rank 0 handles.
    """

    type = "deduplication"
    name = "store signatures"

    def __init__(self, folder: str | Path, settings: DedupSettings, source: str = "", first_part: int = 0) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.settings = settings
        self.source = source
        self.first_part = first_part

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with SignatureWriter(self.folder, self.first_part + rank, self.settings, self.source) as writer:
            for document in data:
                writer.add(document.text)
                yield document
