"""From a part to its documents."""

from collections.abc import Callable, Iterator
from itertools import islice

from datatrove.data import Document

from src.corpus.readers.parts import Part, kind_of
from src.corpus.readers.reading import Format, Reading
from src.corpus.readers.report import ReadReport
from src.corpus.readers.slices import Input


def read_part(part: Part, reading: Reading, report: ReadReport) -> Iterator[Document]:
    """Read the documents of a part; what cannot be read is counted in `report` with its file and place.

    A document's id is ``<file>:<line>``, or ``<file>:<row>`` in Parquet and ``<file>:<record>`` in WARC files. Where a
    range of a file is read, line numbers are not known and the id is ``<file>:@<byte>``, at which its line begins:
    ``tail -c +$((byte + 1)) FILE | head -n 1`` shows it. Empty documents are counted and left out.

    Raises:
        UserError: a file is gone, may not be read, is not of its format at all, or has no such column.
    """
    documents = (document for slice in part for document in _read_slice(Input(slice, reading, report)))
    return islice(documents, reading.max_documents)


def _read_slice(input: Input) -> Iterator[Document]:
    return _reader(kind_of(input.path, input.reading))(input)


def _reader(kind: Format) -> Callable[[Input], Iterator[Document]]:
    """The function that reads a format; each format's libraries are imported when it is met."""
    if kind == "jsonl":
        from src.corpus.readers.jsonl import read_jsonl as read
    elif kind == "txt":
        from src.corpus.readers.txt import read_txt as read
    elif kind == "parquet":
        from src.corpus.readers.parquet import read_parquet as read
    elif kind == "warc":
        from src.corpus.readers.warc import read_warc as read
    else:
        from src.corpus.readers.html import read_html as read
    return read
