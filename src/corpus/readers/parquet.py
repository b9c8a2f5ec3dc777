"""Documents out of a column of Parquet files, a few megabytes of it in memory at a time."""

from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datatrove.data import Document

from src.corpus.readers.compressed import Damage
from src.corpus.readers.reading import Reading
from src.corpus.readers.slices import Input, readable
from src.errors import UserError

BATCH_BYTES = 2_000_000
MAX_BATCH_ROWS = 2048
MAGIC = b"PAR1"
# Arrow's own allocator keeps some 30 MB that were freed long ago, in each of many workers
pyarrow.set_memory_pool(pyarrow.system_memory_pool())


def open_parquet(path: Path, reading: Reading) -> pyarrow.parquet.ParquetFile | None:
    """Open a file that has the columns asked for; None where its footer, and so all of it, is lost.

    Raises:
        UserError: it is no Parquet file, or has no such column.
    """
    with readable(path), path.open("rb") as raw:
        head = raw.read(len(MAGIC))
    if head and head != MAGIC:
        raise UserError(f"{path} is not a Parquet file: rename it to what it is, or fetch it again")
    try:
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pyarrow.ArrowException, OSError):
        return None
    names = file.schema_arrow.names
    for setting in ("text_field", "id_field"):
        wanted = getattr(reading, setting)
        if wanted is not None and wanted not in names:
            raise UserError(f"{path} has no column '{wanted}', only: {', '.join(names)}; set {setting} to one of them")
    return file


def read_parquet(input: Input) -> Iterator[Document]:
    """The documents of a slice's row groups; what cannot be read of one is counted, the next is read all the same."""
    file = open_parquet(input.path, input.reading)
    if file is None:
        input.begin(1)
        input.damaged("", Damage("Parquet file without a footer", input.size))
        input.finish()
        return
    with file:
        groups = file.num_row_groups
        input.begin(groups)
        row = 0
        for group in range(groups):
            metadata = file.metadata.row_group(group)
            if input.slice.start <= group < (groups if input.slice.end is None else input.slice.end):
                yield from _read_group(input, file, group, row)
                input.advance(group + 1 - input.slice.start)
            row += metadata.num_rows
        input.finish()


def _read_group(input: Input, file: pyarrow.parquet.ParquetFile, group: int, row: int) -> Iterator[Document]:
    reading = input.reading
    columns = [reading.text_field] if reading.id_field is None else [reading.text_field, reading.id_field]
    rows = file.metadata.row_group(group).num_rows
    done = 0
    try:
        for batch in file.iter_batches(_batch_rows(file, group, reading), row_groups=[group], columns=columns):
            texts = _strings(batch.column(reading.text_field))
            ids = repeat(None) if reading.id_field is None else _strings(batch.column(reading.id_field))
            for place, value, id in zip(count(row + done + 1), texts, ids):
                if (text := _checked(input, place, value)) is not None:
                    yield Document(text, f"{input.name}:{place}" if id is None else str(_decoded(id)))
            done += len(texts)
    except (pyarrow.ArrowException, OSError):
        input.bad(row + done + 1, "damaged Parquet row group", rows - done)
        sizes = _column_bytes(file, group, reading, "total_compressed_size")
        input.report.lost_bytes += sizes * (rows - done) // max(rows, 1)


def _checked(input: Input, place: int, value: Any) -> str | None:
    """The text of a row as it goes on, counted; None for one that does not."""
    reading = input.reading
    text = _decoded(value)
    if not isinstance(text, str):
        input.bad(place, f"field '{reading.text_field}' is not a string")
        return None
    if len(text) * 4 > reading.max_record_bytes and len(text.encode()) > reading.max_record_bytes:
        input.bad(place, f"longer than {reading.max_record_bytes} bytes")
        return None
    replaced = isinstance(value, bytes) and value != text.encode()
    return text if input.accept(text, replaced) else None


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _strings(column: pyarrow.Array) -> list[Any]:
    """Python values of a column; bytes instead of strings where some are not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        large = pyarrow.types.is_large_string(column.type)
        return column.view(pyarrow.large_binary() if large else pyarrow.binary()).to_pylist()


def _batch_rows(file: pyarrow.parquet.ParquetFile, group: int, reading: Reading) -> int:
    rows = file.metadata.row_group(group).num_rows
    size = _column_bytes(file, group, reading, "total_uncompressed_size")
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * rows // max(size, 1)))


def _column_bytes(file: pyarrow.parquet.ParquetFile, group: int, reading: Reading, size: str) -> int:
    """Bytes of the text column in a row group."""
    metadata = file.metadata.row_group(group)
    columns = (metadata.column(i) for i in range(metadata.num_columns))
    return sum(getattr(column, size) for column in columns if column.path_in_schema == reading.text_field)
