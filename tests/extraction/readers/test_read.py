"""Finding out a file's form, ids, offsets, and what becomes of bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.extraction.readers import FORMATS, Rejects, detect_format, read_samples
from tests.extraction.ie_data import ie_data

GOOD = {"text": "Oslo is in Norway", "entity": [{"entity": "Norway", "entity_type": "place"}]}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_offsets_are_computed_where_they_are_missing(tmp_path: Path) -> None:
    (sample,) = read_samples(write(tmp_path / "a.jsonl", [GOOD]))
    assert sample.items.entities[0].span == (11, 17)


def test_what_the_text_does_not_hold_has_no_offsets(tmp_path: Path) -> None:
    row = {"text": "Oslo", "entity": [{"entity": "Rome", "entity_type": "place"}]}
    (sample,) = read_samples(write(tmp_path / "a.jsonl", [row]))
    assert sample.items.entities[0].span is None


def test_every_bad_row_is_rejected_with_its_line_and_reason(tmp_path: Path) -> None:
    rows: list[Any] = [
        GOOD,
        "{not json",
        "[1, 2]",
        {"entity": []},
        {"text": "x", "entity": [{"entity": "x"}]},
        {"text": "x", "entity": [{"entity": "", "entity_type": "t"}]},
        {"text": "x", "entity": [{"entity": 3, "entity_type": "t"}]},
        {"text": "Oslo", "entity": [{"entity": "Oslo", "entity_type": "t", "start": 0, "end": 3}]},
        GOOD,
        {"text": "Oslo", "entity": [{"entity": "Oslo", "entity_type": ["t"]}]},
        {"text": "Oslo", "entity": [{"entity": "Oslo", "entity_type": "t", "start": "0", "end": "4"}]},
        '{"text": "Oslo", "year": ' + "1" * 5000 + "}",
        '{"text": "Oslo", "deep": ' + "[" * 100_000,
        r'{"text": "Oslo \ud83d"}',
    ]
    rejects = Rejects()
    samples = list(read_samples(write(tmp_path / "a.jsonl", rows), rejects=rejects))
    assert [sample.id for sample in samples] == ["a-1", "a-9"]
    assert [(row["line"], row["reason"]) for row in rejects.rows] == [
        (2, "not JSON"),
        (3, "not an object"),
        (4, "no text"),
        (5, "labels of another shape"),
        (6, "an item without text"),
        (7, "labels of another shape"),
        (8, "wrong offsets"),
        (10, "labels of another shape"),
        (11, "labels of another shape"),
        (12, "not JSON"),
        (13, "not JSON"),
        (14, "lone surrogates"),
    ]
    rejects.write(tmp_path / "rejects.jsonl")
    last = (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").split("\n")[-2]
    assert json.loads(last)["row"] == {"text": "Oslo \ud83d"}
    assert str(rejects).startswith("4 × labels of another shape, 3 × not JSON, ")


def test_rejects_that_nobody_asked_for_are_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(list(read_samples(write(tmp_path / "a.jsonl", [GOOD, {"text": ""}])))) == 1
    assert "a.jsonl: 1 rows left out (1 × no text)" in caplog.text


def test_ids_are_unique_where_the_files_are_not(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [GOOD | {"id": "7"}, GOOD | {"id": "7"}, GOOD | {"id": 7}])
    assert [sample.id for sample in read_samples(file)] == ["7", "7#1", "7#2"]


def test_the_source_is_the_one_given_or_the_records_or_the_files(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [GOOD | {"source": "own"}, GOOD])
    assert [sample.source for sample in read_samples(file)] == ["own", "a"]
    assert [sample.source for sample in read_samples(file, source="given")] == ["given", "given"]


def test_an_array_is_read_as_lines_are(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD], indent=1), "utf-8")
    lines = write(tmp_path / "b.jsonl", [GOOD, GOOD])
    both = [[sample.items for sample in read_samples(file)] for file in (tmp_path / "a.json", lines)]
    assert both[0] == both[1] and len(both[0]) == 2


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    samples = list(read_samples(ie_data("phee/dev.jsonl")))[:50] + list(read_samples(ie_data("conll04/dev.jsonl")))[:50]
    file = write(tmp_path / "a.jsonl", [sample.as_dict() for sample in samples])
    assert list(read_samples(file)) == samples


@pytest.mark.parametrize(
    ("name", "form", "count"),
    [
        ("cluener/train.jsonl", "sample", 10748),
        ("conll04/dev.jsonl", "sample", 231),
        ("phee/dev.jsonl", "sample", 961),
        ("instructie_format/example_zh.json", "sample", 1),
        ("instructie_format/example_en_ins.json", "iepile_train", 1),
        ("iepile_format/EE/test.json", "iepile_test", 6),
    ],
)
def test_real_files_are_read_whole(name: str, form: str, count: int) -> None:
    rejects = Rejects()
    assert detect_format(ie_data(name)) == form
    assert len(list(read_samples(ie_data(name), rejects=rejects))) == count and not len(rejects)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"question": 1}\n', r"no known form \(found question\): give file_format=… as one of columns, iepile_train"),
        (b"[1, 2", "is not JSON"),
        ("文".encode("gb18030"), "is not UTF-8"),
        (b"plain words here\n", "no JSON object"),
    ],
)
def test_a_file_of_no_known_form_is_said(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_samples(tmp_path / "a.json"))


def test_a_missing_file_and_an_unknown_format_are_said(tmp_path: Path) -> None:
    for form in FORMATS:
        with pytest.raises(UserError, match="there is no file"):
            list(read_samples(tmp_path / "absent", format=form))
    with pytest.raises(UserError, match="format=csv is not known"):
        list(read_samples(tmp_path / "absent", format="csv"))
