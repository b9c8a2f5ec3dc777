"""Documents to extract from: a text, files and folders (.txt, .md, .jsonl, .csv, .tsv, .html, plain, .gz or .zst).

Everything is read piece by piece, so that a file may be larger than memory. Tables become lines that name each value's
header, ``Name: Ada Lovelace | Born: 1815``, because a model that reads a bare row can't know what its columns mean.
Nothing is left out in silence: what can't be read is an error that names file and line.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from src.corpus.readers.charset import decode_page
from src.corpus.readers.files import COMPRESSIONS
from src.corpus.readers.html import page_text, require_resiliparse
from src.corpus.readers.lines import lines, whole
from src.corpus.readers.reading import Reading
from src.corpus.readers.report import ReadReport
from src.corpus.readers.slices import Input, Slice
from src.corpus.readers.txt import read_txt
from src.errors import UserError

KINDS = {
    ".txt": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
}
KNOWN = ".txt, .md, .jsonl, .csv, .tsv, .html (each also .gz or .zst)"
TEXT_FIELDS = ("text", "input")  # of a .jsonl record and a .csv row: IEPile's samples, KnowLM-IE's records
SEPARATOR = " | "
MAX_CELL_SPAN = 100  # rows or columns that one cell of a web page may fill
MAX_COLUMNS = 1000  # of a web page's table in which cells may fill several places
MAX_FIELD_CHARACTERS = 2**31 - 1  # of a .csv cell; Python's own limit is 131,072


@dataclass(frozen=True)
class Document:
    """A text with a name.

    id: unique among the documents of a run.
    source: file it was read from.
    title: what it is about; put before each of its chunks where that is asked for.
    """

    id: str
    text: str
    source: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        if re.search("[\ud800-\udfff]", self.text):
            raise UserError(f"document '{self.id}' has lone surrogates, which are no characters: decode it again")


@dataclass(frozen=True)
class Fields:
    """Names of JSON fields and CSV columns.

    text: None is ``text`` or ``input``, and for a .csv file without them the whole row with its headers.
    id: a record without it is named ``file:line``.
    """

    text: str | None = None
    id: str = "id"
    title: str = "title"


def read_documents(path: str | Path, fields: Fields | None = None, main_content: bool = True) -> Iterator[Document]:
    """The documents of a file, or of all files below a folder in the order of their names.

    A .txt, .md or .html file is one document; a line of .jsonl and a row of .csv is one.

    Args:
        main_content: leave out the navigation of web pages, and lines that are mostly links.

    Raises:
        UserError: there is no such file, or a record can't be read; with file and line.
    """
    given = Path(path).expanduser()
    folder = str(given) if given.is_dir() else None
    for file in find_documents(given):
        input = Input(Slice(str(file)), Reading(main_content=main_content, folder=folder), ReadReport())
        kind = kind_of(file)
        if kind == "jsonl":
            yield from _jsonl(input, fields or Fields())
        elif kind == "csv":
            yield from _csv(input, fields or Fields())
        else:
            for found in _txt(input) if kind == "txt" else _html(input):
                _refuse_bad(input)
                yield found
            _refuse_bad(input)


def find_documents(path: str | Path) -> list[Path]:
    """The files that `read_documents` reads, sorted; hidden ones are left out. Raises `UserError` for none."""
    given = Path(path).expanduser()
    if given.is_file():
        if kind_of(given) is None:
            raise UserError(f"{given} is none of the formats that can be read: {KNOWN}")
        return [given]
    if not given.is_dir():
        raise UserError(f"input '{path}' does not exist: give a file or a folder of {KNOWN} files")
    inside = (file for file in given.rglob("*") if file.is_file() and kind_of(file))
    files = sorted(file for file in inside if not any(part.startswith(".") for part in file.relative_to(given).parts))
    if not files:
        raise UserError(f"folder '{path}' has none of the files that can be read: {KNOWN}")
    return files


def kind_of(file: Path) -> str | None:
    """What a file is by its name; None for what can't be read."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def _refuse_bad(input: Input) -> None:
    """Raise for the first record that could not be read."""
    if input.report.examples:
        example = input.report.examples[0]
        raise UserError(f"{example}: mend the record or leave it out of the input")


def _txt(input: Input) -> Iterator[Document]:
    for found in read_txt(input):
        if input.report.replaced:  # a guess at the encoding would be wrong in silence
            raise UserError(f"{input.name} is not UTF-8: convert the file with iconv -t UTF-8")
        yield Document(found.id, found.text, input.name)


def _jsonl(input: Input, fields: Fields) -> Iterator[Document]:
    import orjson

    numbers = _numbered(input)
    for place, line in numbers:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(
                f"{input.name}:{place} is not JSON ({error}): .jsonl files hold one object a line"
            ) from error
        if not isinstance(record, dict):
            raise UserError(f"{input.name}:{place} is {type(record).__name__}: each line must be an object with a text")
        names = [fields.text] if fields.text else [name for name in TEXT_FIELDS if name in record]
        text = record.get(names[0]) if names else None
        if not isinstance(text, str):
            wanted = fields.text or " or ".join(TEXT_FIELDS)
            raise UserError(
                f"{input.name}:{place} has no text in field {wanted} (it has {', '.join(map(str, record))}): "
                "name the field with text_field="
            )
        yield from _document(input, place, record, text, fields)


def _numbered(input: Input) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers; damage to the file is an error."""
    for place, line in lines(input):
        _refuse_bad(input)
        if line.strip():
            yield place, line
    _refuse_bad(input)


def _document(input: Input, place: int, record: dict[str, Any], text: str, fields: Fields) -> Iterator[Document]:
    """The document of a record; none where its text is blank."""
    if text.strip():
        name = record.get(fields.id)
        id = f"{input.name}:{place}" if name in (None, "") else str(name)
        yield Document(id, text, input.name, str(record.get(fields.title) or ""))


def _csv(input: Input, fields: Fields) -> Iterator[Document]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    tabs = ".tsv" in [suffix.lower() for suffix in input.path.suffixes]
    rows = csv.reader(_text_lines(input), delimiter="\t" if tabs else ",", strict=True)
    headers: list[str] | None = None
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if headers is None:
                headers = [cell.strip() for cell in row]
                _check_headers(input, headers, fields)
                continue
            if len(row) > len(headers):
                raise UserError(
                    f"{input.name}:{rows.line_num} has {len(row)} cells and the first line {len(headers)} headers: "
                    "put cells that hold commas in quotes"
                )
            record = dict(zip(headers, row, strict=False))
            name = fields.text or next((name for name in TEXT_FIELDS if name in record), None)
            text = record.get(name, "") if name else row_line(headers, row)
            yield from _document(input, rows.line_num, record, text, fields)
    except csv.Error as error:
        raise UserError(f"{input.name}:{rows.line_num} is not CSV ({error}): mend its quotes") from error


def _check_headers(input: Input, headers: list[str], fields: Fields) -> None:
    if len(headers) == 1 and (mark := next((mark for mark in ";\t" if mark in headers[0]), None)):
        better = "commas" if mark == ";" else "commas, or call the file .tsv"
        raise UserError(f"{input.name} has one column, '{headers[0]}': put {better} between its cells")
    if fields.text and fields.text not in headers:
        raise UserError(f"{input.name} has no column '{fields.text}': it has {', '.join(headers)}")


def _text_lines(input: Input) -> Iterator[str]:
    for place, line in lines(input):
        _refuse_bad(input)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{input.name}:{place} is not UTF-8: convert the file with iconv -t UTF-8") from error
    _refuse_bad(input)


def row_line(headers: list[str], cells: list[str]) -> str:
    """A row of a table as a line: ``header: value | …``; empty cells are left out, and so are missing headers."""
    pairs = zip(headers + [""] * (len(cells) - len(headers)), cells, strict=False)
    return SEPARATOR.join(
        f"{_one_line(header)}: {_one_line(cell)}" if header.strip() else _one_line(cell)
        for header, cell in pairs
        if cell.strip()
    )


def _one_line(cell: str) -> str:
    return " ".join(cell.split())


def _html(input: Input) -> Iterator[Document]:
    require_resiliparse()
    raw = whole(input)
    if raw is None:
        return
    page, _ = decode_page(raw)
    page_with_lines = with_table_lines(page)
    text = page_text(page_with_lines, main_content=input.reading.main_content)
    if not text.strip():  # a page that is all links is read as it is, and not lost
        text = page_text(page_with_lines, main_content=False)
    if text.strip():
        title = re.search(r"<title[^>]*>([^<]*)</title>", page, re.IGNORECASE)
        yield Document(input.name, text, input.name, _one_line(_unescaped(title[1])) if title else "")


def _unescaped(text: str) -> str:
    import html

    return html.unescape(text)


def with_table_lines(page: str) -> str:
    """The page with its tables of data as lines ``header: value | …``.

    Headers are the cells of a first row of ``th``, or the ``th`` that opens a row. A table within a table, which is
    there for the layout of a page, and one without headers stay as they are.
    """
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    if tree.body is None or not (tables := list(tree.body.query_selector_all("table"))):
        return page
    for table in tables:
        if table.query_selector("table") is not None or table.query_selector("th") is None:
            continue
        rows = _grid([list(row.query_selector_all("th, td")) for row in table.query_selector_all("tr")])
        block = tree.create_element("pre")  # whose line breaks are kept
        cast(Any, block).text = "\n".join(_table_lines([row for row in rows if row]))
        cast(Any, table.parent).replace_child(block, table)
    return str(tree.document)


def _grid(rows: list[list[Any]]) -> list[list[Any]]:
    """The cells of a table with those that span rows or columns at each of their places, so that columns line up."""
    grid: list[list[Any]] = []
    waiting: dict[int, tuple[Any, int]] = {}  # by column: a cell from above, and for how many more rows
    for row in rows:
        cells = iter(row)
        line: list[Any] = []
        while True:
            if len(line) in waiting:
                cell, more = waiting.pop(len(line))
                if more > 1:
                    waiting[len(line)] = cell, more - 1
                line.append(cell)
                continue
            cell = next(cells, None)
            if cell is None:
                break
            down, across = (_span(cell, name) if len(line) < MAX_COLUMNS else 1 for name in ("rowspan", "colspan"))
            for _ in range(across):
                if down > 1:
                    waiting[len(line)] = cell, down - 1
                line.append(cell)
        grid.append(line)
    return grid


def _span(cell: Any, name: str) -> int:
    value = str(cell.getattr(name) or "")
    return min(max(int(value), 1), MAX_CELL_SPAN) if value.isdecimal() else 1


def _table_lines(rows: list[list[Any]]) -> Iterator[str]:
    headers: list[str] = []
    for row in rows:
        cells = ["" if number and cell is row[number - 1] else str(cell.text) for number, cell in enumerate(row)]
        if all(cell.tag == "th" for cell in row):
            headers = [str(cell.text) for cell in row]
            if all(cell is row[0] for cell in row):  # a title over the whole width
                headers = []
                yield _one_line(cells[0])
        elif not headers and row[0].tag == "th":
            yield f"{_one_line(cells[0])}: {SEPARATOR.join(_one_line(cell) for cell in cells[1:] if cell.strip())}"
        elif line := row_line(headers, cells):
            yield line
