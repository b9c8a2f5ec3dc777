"""Documents out of files: JSON lines, plain text, Parquet, WARC and HTML, plain or compressed, and hub data sets.

`find_files` finds a source's files, `plan_parts` cuts them into parts, `read_part` reads one of them. One
file for each format; what they share is in `slices` and `lines`.
"""

from datatrove.data import Document

from src.corpus.readers.files import find_files
from src.corpus.readers.parts import Part, plan_parts
from src.corpus.readers.read import read_part
from src.corpus.readers.reading import Reading, TxtDocuments
from src.corpus.readers.report import ReadReport
from src.corpus.readers.slices import Slice

__all__ = [
    "Document",
    "Part",
    "ReadReport",
    "Reading",
    "Slice",
    "TxtDocuments",
    "find_files",
    "plan_parts",
    "read_part",
]
