"""Documents out of JSON lines (jsonlines.org): one object a line, the text in one of its fields.

orjson reads almost every line. What it refuses, Python's own parser gets to see: NaN passes it, lone surrogates do, and
invalid UTF-8 is replaced by U+FFFD, in texts and ids, and counted for texts.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson
from datatrove.data import Document

from src.corpus.readers.lines import place_mark, records
from src.corpus.readers.slices import Input, without_surrogates
from src.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_jsonl(input: Input) -> Iterator[Document]:
    """The documents of a slice."""
    report, field, id_field = input.report, input.reading.text_field, input.reading.id_field
    mark = place_mark(input)
    prefix = f"{input.name}:{mark}"
    for place, line in records(input):
        checked = True
        try:
            record = orjson.loads(line)
        except ValueError:
            record, checked = _second_try(line), False
        text = record.get(field) if type(record) is dict else None
        if type(text) is not str:
            input.bad(f"{mark}{place}", _what_is_wrong(input, place, line, record, field))
            continue
        if not checked and _SURROGATE.search(text):
            text = without_surrogates(text)
            report.replaced += 1
        report.records += 1
        if not text:
            report.empty += 1
            continue
        report.documents += 1
        name = None if id_field is None else record.get(id_field)
        id = f"{prefix}{place}" if name is None else str(name)
        yield Document(text, id if checked else without_surrogates(id))


def _second_try(line: bytes) -> Any:
    """What Python's parser makes of a line, invalid bytes as surrogates; None where it is not JSON."""
    try:
        return json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None


def _what_is_wrong(input: Input, place: int, line: bytes, record: Any, field: str) -> str:
    array = isinstance(record, list) and any(isinstance(one, dict) for one in record)
    if input.slice.start == 0 and place <= 1 and (array or (record is None and line.lstrip().startswith(b"["))):
        raise UserError(
            f"{input.path} is one JSON array, not a JSON object on each line: convert it with "
            f"jq -c '.[]' '{input.path.name}' > '{input.path.stem}.jsonl'"
        )
    if record is None and line.strip() != b"null":
        return "not JSON"
    if not isinstance(record, dict) or field not in record:
        return f"no field '{field}'"
    return f"field '{field}' is not a string"
