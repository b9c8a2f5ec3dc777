"""A source's files cut into parts: each is read by one task, whichever machine it runs on.

The cut is a function of the files, their sizes and the settings alone, so the same documents lie in the same parts with
any number of workers, and after a run was killed.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from src.corpus.readers.files import compression_of, format_of
from src.corpus.readers.reading import Format, Reading
from src.corpus.readers.slices import Slice, check_compression, readable
from src.errors import UserError

Part = tuple[Slice, ...]

DEFAULT_PARTS = 32
MIN_PART_BYTES = 4_000_000
MAX_PART_BYTES = 256_000_000
COMPRESSION = 4  # text is about this much bigger than its compressed file
MAX_STRIDES = 8  # each of them decompresses the whole file


def plan_parts(files: Iterable[str | Path], reading: Reading, part_bytes: int | None = None) -> list[Part]:
    """Cut files into parts of about `part_bytes`: big files are divided, small ones put together.

    Plain JSON lines, and text of which each line is a document, are cut into ranges of bytes; Parquet between its row
    groups; compressed files into strides; all others stay whole. With ``max_documents`` everything is one part.

    Args:
        part_bytes: input bytes as on disk, those of compressed files fourfold; None means a 32nd of all, from 4 MB to
            256 MB.

    Raises:
        UserError: a file cannot be opened, is of another format than its name says, or has no such column, or the
            library that reads it is not installed.
    """
    paths = [Path(file) for file in files]
    sizes = {path: _checked_size(path) for path in paths}
    if part_bytes is None:
        part_bytes = min(max(sum(sizes.values()) // DEFAULT_PARTS, MIN_PART_BYTES), MAX_PART_BYTES)
    if part_bytes < 1:
        raise UserError(f"part_bytes={part_bytes} is no size: give 1 or more, or null for a 32nd of the input")
    pieces = [piece for path in paths for piece in _pieces(path, sizes[path], reading, part_bytes)]
    if reading.max_documents is not None:
        return [tuple(Slice(str(path)) for path in paths)]
    return list(_grouped(pieces, part_bytes))


def kind_of(path: str | Path, reading: Reading) -> Format:
    """The format a file is read as."""
    if (kind := reading.format or format_of(path)) is None:
        raise UserError(f"{path} is none of the formats that can be read: say which with format=")
    return kind


def _pieces(path: Path, size: int, reading: Reading, part_bytes: int) -> Iterator[tuple[Slice, int]]:
    """Slices of a file, none divisible further, each with the bytes it counts for."""
    file = str(path)
    kind = kind_of(path, reading)
    by_line = kind == "jsonl" or (kind == "txt" and reading.txt_documents == "line")
    if kind == "html" or (kind == "warc" and ".wet" not in path.name):
        from src.corpus.readers.html import require_resiliparse

        require_resiliparse()
    if kind == "parquet":
        yield from _row_groups(path, size, reading, part_bytes)
    elif compression_of(path):
        weight = COMPRESSION * size
        by_record = by_line or (kind == "txt" and reading.txt_documents == "paragraph")
        strides = min(max(-(-weight // part_bytes), 1), MAX_STRIDES) if by_record else 1
        for i in range(strides):
            yield Slice(file, stride=(i, strides)), weight // strides
    else:
        ranges = max(-(-size // part_bytes), 1) if by_line else 1
        borders = [size * i // ranges for i in range(ranges)]
        for start, end in zip(borders, [*borders[1:], None], strict=True):
            yield Slice(file, start, end), (size if end is None else end) - start


def _row_groups(path: Path, size: int, reading: Reading, part_bytes: int) -> Iterator[tuple[Slice, int]]:
    """Runs of row groups that hold about `part_bytes`, or one where one is bigger."""
    from src.corpus.readers.parquet import open_parquet  # pyarrow is not needed for other files

    file = open_parquet(path, reading)
    groups = 0 if file is None else file.num_row_groups
    start = 0
    for end in range(1, groups):
        if size * (end + 1 - start) > part_bytes * groups:
            yield Slice(str(path), start, end), size * (end - start) // groups
            start = end
    yield Slice(str(path), start), size * (groups - start) // max(groups, 1)


def _grouped(pieces: Iterable[tuple[Slice, int]], part_bytes: int) -> Iterator[Part]:
    part: list[Slice] = []
    filled = 0
    for piece, size in pieces:
        if part and filled + size > part_bytes:
            yield tuple(part)
            part, filled = [], 0
        part.append(piece)
        filled += size
    if part:
        yield tuple(part)


def _checked_size(path: Path) -> int:
    """The size of a file that can be opened and is compressed as its name says."""
    with readable(path), path.open("rb") as raw:
        if compression := compression_of(path):
            check_compression(path, raw.read(4), compression)
        return path.stat().st_size
