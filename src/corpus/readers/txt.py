"""Documents out of plain text: a file, a paragraph or a line each."""

from collections.abc import Iterator

from datatrove.data import Document

from src.corpus.readers.lines import lines, place_mark, records, whole, without_mark
from src.corpus.readers.slices import Input


def read_txt(input: Input) -> Iterator[Document]:
    """The documents of a slice; a paragraph is what lies between blank lines."""
    mode = input.reading.txt_documents
    if mode == "file":
        raw = whole(input)
        if raw is not None:
            yield from _document(input, input.name, without_mark(input, raw))
        return
    prefix = f"{input.name}:{place_mark(input)}"
    for place, raw in records(input) if mode == "line" else _paragraphs(input):
        yield from _document(input, f"{prefix}{place}", raw)


def _document(input: Input, id: str, raw: bytes) -> Iterator[Document]:
    encoding = input.reading.encoding
    try:
        text, replaced = raw.decode(encoding), False
    except UnicodeDecodeError:
        text, replaced = raw.decode(encoding, "replace"), True
    if input.accept(text, replaced):
        yield Document(text, id)


def _paragraphs(input: Input) -> Iterator[tuple[int, bytes]]:
    """Paragraphs of the slice's stride, each with the number of its first line."""
    i, k = input.slice.stride
    limit = input.reading.max_record_bytes
    gathered: list[bytes] = []
    start = size = index = 0
    for number, line in _and_a_blank_line(lines(input)):
        if line and not line.isspace():
            start = number if size == 0 else start
            size += len(line)
            if size <= limit:
                gathered.append(line)
            continue
        if size and index % k == i:
            if size <= limit:
                yield start, b"".join(gathered)
            else:
                input.bad(start, f"longer than {limit} bytes")
        index += size > 0
        gathered, size = [], 0


def _and_a_blank_line(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield from lines
    yield 0, b""
