"""`read_samples`: find out a file's form, read its rows, see that offsets are right, keep what can't be used apart."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.items import Items, Sample
from src.extraction.offsets import fold, place
from src.extraction.readers import records
from src.extraction.readers.columns import looks_like_columns, read_columns
from src.extraction.readers.iepile import instruction_object, read_converted
from src.extraction.readers.rejects import RejectedError, Rejects
from src.extraction.readers.rows import read_rows

log = logging.getLogger(__name__)

PROBED_ROWS = 50
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RecordFormat:
    """A form of JSON records. The first whose ``matches`` is true of most rows at the top is a file's."""

    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Sample]


def _converted(record: Mapping[str, Any]) -> Sample:
    return read_converted(record)[1]


RECORD_FORMATS: Mapping[str, RecordFormat] = {
    "iepile_train": RecordFormat(lambda row: "output" in row and instruction_object(row) is not None, _converted),
    "iepile_test": RecordFormat(lambda row: instruction_object(row) is not None, _converted),
    "knowlm_ie": RecordFormat(
        lambda row: "instruction" in row and bool({"cate", "kg", "relation", "entity"} & set(row)) and "input" in row,
        records.read_knowlm_ie,
    ),
    "cluener": RecordFormat(lambda row: "text" in row and isinstance(row.get("label"), dict), records.read_cluener),
    "duie": RecordFormat(lambda row: "spo_list" in row, records.read_duie),
    "duee": RecordFormat(lambda row: "event_list" in row, records.read_duee),
    "spert": RecordFormat(lambda row: "tokens" in row and "entities" in row, records.read_spert),
    "sample": RecordFormat(lambda row: "text" in row, records.read_sample),
}
FORMATS = ("auto", "columns", *RECORD_FORMATS)


def read_samples(
    path: str | Path, format: str = "auto", source: str | None = None, rejects: Rejects | None = None
) -> Iterator[Sample]:
    """The samples of an annotated file, each with an id of its own, a source and offsets.

    Args:
        format: one of `FORMATS`.
        source: name of the data set; None: the record's, or the file's name.
        rejects: where rows go that can't be used; None: they are counted in the log.

    Raises:
        UserError: the file is missing, empty or of no known form.
    """
    file = Path(path).expanduser()
    if format not in FORMATS:
        raise UserError(f"file_format={format} is not known: choose one of {', '.join(FORMATS)}")
    if not file.is_file():
        raise UserError(f"there is no file {file}: give a file of annotated texts")
    chosen = detect_format(file) if format == "auto" else format
    found = rejects if rejects is not None else Rejects()
    before = len(found)
    name = source or file.stem
    rows = read_columns(file, name, found) if chosen == "columns" else _records(file, chosen, name, found)
    used: Counter[str] = Counter()
    for line, sample in rows:
        try:
            checked = placed(sample)
        except RejectedError as error:
            found.add(file, line, error, sample.as_dict())
            continue
        number = used[checked.id]
        used[checked.id] += 1
        if number:
            checked = replace(checked, id=f"{checked.id}#{number}")
        yield replace(checked, source=source or checked.source or name)
    if rejects is None and len(found) > before:
        log.warning("%s: %d rows left out (%s)", file.name, len(found), found)


def detect_format(path: Path) -> str:
    """The form of a file by its first rows. Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: give a file of annotated texts")
    try:
        with path.open(encoding="utf-8-sig") as stream:
            lines = list(itertools.islice(stream, PROBED_ROWS))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it, with iconv for instance") from None
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} is empty: give a file of annotated texts")
    if looks_like_columns(lines):
        return "columns"
    rows = [row for _, row in itertools.islice(read_rows(path, Rejects()), PROBED_ROWS)]
    votes = Counter(name for row in rows if (name := _format_of(row)))
    if not votes:
        keys = ", ".join(map(str, rows[0])) if rows else "no JSON object"
        raise UserError(
            f"{path} has no known form (found {keys}): give file_format=… as one of {', '.join(FORMATS[1:])}"
        )
    return votes.most_common(1)[0][0]


def placed(sample: Sample) -> Sample:
    """The sample with offsets where it had none. Raises `RejectedError` where those it has are wrong."""
    for text, span in _spans(sample.items):
        if span is not None and (found := sample.text[span[0] : span[1]]) != text and fold(found) != fold(text):
            raise RejectedError("wrong offsets", f"'{text}' is not at {span[0]}-{span[1]} of the text")
    if any(span is None for _, span in _spans(sample.items)):
        return replace(sample, items=place(sample.items, sample.text)[0])
    return sample


def _spans(items: Items) -> Iterator[tuple[str, tuple[int, int] | None]]:
    for entity in items.entities:
        yield entity.text, entity.span
    for relation in items.relations:
        yield relation.head, relation.head_span
        yield relation.tail, relation.tail_span
    for event in items.events:
        if event.trigger:
            yield event.trigger, event.span
        for argument in event.arguments:
            yield argument.text, argument.span


def _format_of(row: Mapping[str, Any]) -> str | None:
    return next((name for name, form in RECORD_FORMATS.items() if form.matches(row)), None)


def _records(path: Path, name: str, source: str, rejects: Rejects) -> Iterator[tuple[int, Sample]]:
    parts = _each_record(path, RECORD_FORMATS[name], source, rejects)
    yield from _joined(parts) if name.startswith("iepile") else parts


def _each_record(path: Path, form: RecordFormat, source: str, rejects: Rejects) -> Iterator[tuple[int, Sample]]:
    for number, row in read_rows(path, rejects):
        try:
            sample = form.read(row)
            _check_texts(sample)
        except RejectedError as error:
            rejects.add(path, number, error, row)
            continue
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            detail = f"{type(error).__name__}: {error}"
            rejects.add(path, number, RejectedError("record of another shape", detail), row)
            continue
        yield number, sample if sample.id else replace(sample, id=f"{source}-{number}")


def _check_texts(sample: Sample) -> None:
    for text, _ in _spans(sample.items):
        if not text.strip():
            raise RejectedError("an item without text", f"{text!r}")
    if _SURROGATE.search(sample.text):
        raise RejectedError("lone surrogates", "half of a character is missing in the text")


def _joined(parts: Iterator[tuple[int, Sample]]) -> Iterator[tuple[int, Sample]]:
    """Records that follow each other with the same text and source as one, with the items of all of them."""
    for _, group in itertools.groupby(parts, key=lambda part: (part[1].text, part[1].source)):
        each = list(group)
        line, first = each[0]
        total = sum((sample.items for _, sample in each), Items())
        once = Items(
            tuple(dict.fromkeys(total.entities)),
            tuple(dict.fromkeys(total.relations)),
            tuple(dict.fromkeys(total.events)),
        )
        yield line, replace(first, items=once)
