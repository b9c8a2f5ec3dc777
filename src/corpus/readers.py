"""Documents out of JSONL, TXT and Parquet files, plain or compressed (.gz, .zst), one at a time.

A record that cannot be read is counted with its file and line and left out; a file that cannot be read stops the run.
Several workers share a source by record number: worker k of n takes every n-th record, which balances by itself and
works on compressed files, at the price that every worker decompresses all of them.
"""

import glob
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import orjson
import pyarrow.parquet
import zstandard

from src.errors import UserError

TxtDocuments = Literal["file", "paragraph", "line"]

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "txt", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".zst")
KNOWN = ".jsonl, .txt (each also .gz or .zst) and .parquet"
MAX_EXAMPLES = 20
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Document:
    """One text and where it was found, such as ``part-3.jsonl.gz:17``."""

    text: str
    id: str


@dataclass
class ReadReport:
    """What a reader met. `position` is the number of input bytes, as they lie on disk, that are behind it."""

    records: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    position: int = 0

    def add_bad(self, where: str, reason: str) -> None:
        """Count a record that is left out, and keep the first few for the message."""
        self.bad[reason] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{where}: {reason}")


@dataclass(frozen=True)
class _Record:
    """A record as found: its place, and either its text or what is wrong with it."""

    where: str
    text: str | None
    reason: str = ""


def find_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Input files of a source, sorted: files, globs, and folders (searched to the bottom, hidden files left out).

    Raises:
        UserError: a path leads to no file, or to one of another format.
    """
    found: set[Path] = set()
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path))]
            files = [p for p in inside if _kind(p)]
        elif path.is_file():
            files = [path]
        else:
            files = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
        if not files:
            raise UserError(f"'{given}' leads to no input file: give a file, folder or glob of {KNOWN} files")
        for file in files:
            if not _kind(file):
                raise UserError(f"{file} is none of the formats that can be read: {KNOWN}")
        found.update(files)
    return sorted(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if kind == "parquet" else kind  # Parquet compresses inside
    return KINDS.get(suffixes[-1]) if suffixes else None


def read_documents(
    files: Iterable[Path],
    *,
    text_field: str = "text",
    txt_documents: TxtDocuments = "file",
    worker: int = 0,
    workers: int = 1,
    max_documents: int | None = None,
    report: ReadReport | None = None,
) -> Iterator[Document]:
    """Read the documents of one worker's share.

    Args:
        text_field: JSON key or Parquet column of the text.
        txt_documents: what one document of a .txt file is: the file, a paragraph between blank lines, or a line.
        max_documents: read no more than this many records of the source, over all workers.
        report: filled in while reading.

    Raises:
        UserError: a file is damaged or has no such column.
    """
    report = ReadReport() if report is None else report
    number = behind = 0
    for file in files:
        for record in _records(file, text_field, txt_documents, behind, report, (number, worker, workers)):
            if max_documents is not None and number >= max_documents:
                return
            mine = number % workers == worker
            number += 1
            if not mine or record is None:
                continue
            report.records += 1
            if record.text is None:
                report.add_bad(record.where, record.reason)
            else:
                yield Document(record.text, record.where)
        behind += file.stat().st_size
        report.position = behind


_Share = tuple[int, int, int]  # number of the file's first record, worker, workers


def _records(
    file: Path, text_field: str, txt_documents: str, behind: int, report: ReadReport, share: _Share
) -> Iterator[_Record | None]:
    """Every record of a file; None, unparsed, for those of other workers."""
    kind = _kind(file)
    try:
        if kind == "parquet":
            yield from _parquet_records(file, text_field)
            return
        with file.open("rb") as raw, _decompressed(raw, file) as stream:
            lines = _lines(stream, raw, behind, report)
            if kind == "jsonl":
                yield from _jsonl_records(file, lines, text_field, share)
            else:
                yield from _txt_records(file, lines, txt_documents)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"{file} is damaged or cut short ({error}): fetch or compress it again") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def _lines(stream: IO[bytes], raw: IO[bytes], behind: int, report: ReadReport) -> Iterator[bytes]:
    """Lines with their ends; only a line feed ends a line."""
    for number, line in enumerate(stream):
        if number % 64 == 0:
            report.position = behind + raw.tell()
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line


def _jsonl_records(file: Path, lines: Iterator[bytes], text_field: str, share: _Share) -> Iterator[_Record | None]:
    first, worker, workers = share
    number = first
    for line_number, line in enumerate(lines, start=1):
        if line.isspace() or not line:
            continue
        if number % workers == worker:
            yield _json_record(f"{file.name}:{line_number}", line, text_field)
        else:
            yield None
        number += 1


def _json_record(where: str, line: bytes, text_field: str) -> _Record:
    try:
        value = orjson.loads(line)
    except ValueError:  # NaN and lone surrogates, for instance, pass Python's own parser
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            return _Record(where, None, "not UTF-8")
        except (ValueError, RecursionError):
            return _Record(where, None, "not JSON")
    if not isinstance(value, dict) or text_field not in value:
        return _Record(where, None, f"no field '{text_field}'")
    return _text_record(where, value[text_field], text_field)


def _text_record(where: str, text: object, text_field: str) -> _Record:
    if not isinstance(text, str):
        return _Record(where, None, f"field '{text_field}' is not a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _Record(where, None, "not UTF-8")
    return _Record(where, text)


def _txt_records(file: Path, lines: Iterator[bytes], txt_documents: str) -> Iterator[_Record]:
    if txt_documents == "file":
        yield _decoded(file.name, b"".join(lines))
        return
    gathered: list[bytes] = []
    start = 1
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            if gathered:
                yield _decoded(f"{file.name}:{start}", b"".join(gathered))
            gathered = []
            continue
        start = start if gathered else number
        gathered.append(line)
        if txt_documents == "line":
            yield _decoded(f"{file.name}:{number}", line)
            gathered = []
    if gathered:
        yield _decoded(f"{file.name}:{start}", b"".join(gathered))


def _decoded(where: str, raw: bytes) -> _Record:
    try:
        return _Record(where, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n")
        return _Record(f"{where}, line {line + 1} of it", None, "not UTF-8")


def _parquet_records(file: Path, text_field: str) -> Iterator[_Record]:
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file} is not a Parquet file ({error}): fetch it again") from None
    if text_field not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise UserError(f"{file} has no column '{text_field}', only: {names}; set text_field to one of them")
    row = 0
    for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
        for value in batch.column(0):
            row += 1
            yield _parquet_record(f"{file.name}:{row}", value, text_field)


def _parquet_record(where: str, value: pyarrow.Scalar, text_field: str) -> _Record:
    try:
        return _text_record(where, value.as_py(), text_field)
    except UnicodeDecodeError:
        return _Record(where, None, "not UTF-8")


def _decompressed(raw: IO[bytes], file: Path) -> IO[bytes]:
    if file.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK_BYTES)  # type: ignore[arg-type]
    if file.suffix.lower() == ".zst":
        return io.BufferedReader(_ZstdReader(raw), BLOCK_BYTES)
    return raw


class _ZstdReader(io.RawIOBase):
    """Frames of a .zst file one after another; unlike the library's own reader it notices a frame cut short."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while not self._output:
            if not self._input:
                self._input = self._raw.read(BLOCK_BYTES // 8)
                if not self._input:
                    if self._started:
                        raise EOFError("the last frame has no end")
                    return 0
            self._output = memoryview(self._frame.decompress(self._input))
            self._started, self._input = True, b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._started = False
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count
