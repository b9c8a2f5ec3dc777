"""JSON lines: every good line is a document, and every other one is counted with its place."""

import gzip
import json
import os

import pytest
import zstandard

from src.corpus.readers import Reading, ReadReport, Slice, plan_parts, read_part
from src.errors import UserError

TEXTS = ["plain", "汉字 😀", "a\r\nb\u2028c\x00", "  blanks  "]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def jsonl(texts):
    return b"".join(json.dumps({"text": text, "n": 1}).encode() + b"\n" for text in texts)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_json_lines_are_read_plain_and_compressed(tmp_path, read, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](jsonl(TEXTS)))
    documents, report = read(file)
    assert [document.text for document in documents] == TEXTS
    assert documents[1].id == f"{file.name}:2"
    assert report.position == report.input_bytes == file.stat().st_size


def test_bad_records_are_counted_by_reason_with_file_and_line(tmp_path, read):
    file = tmp_path / "a.jsonl"
    lines = [b'{"text": "good"}', b"{broken", b"", b'{"other": 1}', b'{"text": 5}', b'{"text": null}', b"[1]", b"null"]
    lines += [b'{"text": "nan is fine", "score": NaN}', b"[" * 100_000, b'{"text": ""}', b'{"text": "last"}']
    file.write_bytes(b"\n".join(lines))
    documents, report = read(file)
    assert [document.text for document in documents] == ["good", "nan is fine", "last"]
    assert report.bad == {"not JSON": 2, "no field 'text'": 3, "field 'text' is not a string": 2}
    assert (report.records, report.empty) == (11, 1)
    assert [str(example) for example in report.examples[:2]] == ["a.jsonl:2: not JSON", "a.jsonl:4: no field 'text'"]


def test_invalid_utf8_and_lone_surrogates_are_replaced_and_counted(tmp_path, read):
    file = tmp_path / "a.jsonl"
    lines = [b'{"text": "a\xff\xe6\xb1b"}', b'{"text": "\\ud800 \\udc80 \\ud83d\\ude00"}', b'{"text": "\\ud83d\xffz"}']
    lines += ['{"text": "�"}'.encode(), b'{"text": "fine", "other": "\xff"}', b'{"text": "\xed\xa0\x80"}']
    file.write_bytes(b"\n".join(lines))
    documents, report = read(file)
    expected = [b"a\xff\xe6\xb1b".decode("utf-8", "replace"), "\ufffd \ufffd 😀", "\ufffd\ufffdz"]
    assert [document.text for document in documents] == [*expected, "\ufffd", "fine", "\ufffd\ufffd\ufffd"]
    assert (report.replaced, report.bad.total()) == (4, 0)
    assert all(document.text.encode() for document in documents)


def test_a_line_in_a_range_is_named_by_the_byte_at_which_it_begins(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(["汉字", "b", "c"]) + b"{broken\n")
    parts = plan_parts([file], Reading(), 30)
    assert len(parts) > 2
    report = ReadReport()
    documents = [document for part in parts for document in read_part(part, Reading(), report)]
    for document in documents:
        offset = int(document.id.removeprefix("a.jsonl:@"))
        assert json.loads(file.read_bytes()[offset:].split(b"\n")[0])["text"] == document.text
    assert str(report.examples[0]) == f"a.jsonl:@{file.stat().st_size - 8}: not JSON"


def test_a_field_can_name_the_documents(tmp_path, read):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a", "url": "u1"}\n{"text": "b"}\n{"text": "c", "url": 7}\n')
    assert [document.id for document in read(file, id_field="url")[0]] == ["u1", "a.jsonl:2", "7"]


def test_an_id_or_a_file_name_that_is_no_utf8_is_replaced_as_a_text_is(tmp_path, read):
    file = os.fsencode(tmp_path) + b"/a\xff.jsonl"
    lines = [b'{"text": "a", "url": "u\\ud800"}', b'{"text": "b", "url": "\xe6\xb1"}', b'{"text": "c"}', b"{broken"]
    try:
        with open(file, "wb") as stream:
            stream.write(b"\n".join(lines))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for settings in ({}, {"folder": str(tmp_path)}):
        documents, report = read(os.fsdecode(file), id_field="url", **settings)
        assert [document.id for document in documents] == ["u\ufffd", "\ufffd", "a\ufffd.jsonl:3"]
        assert [str(example) for example in report.examples] == ["a\ufffd.jsonl:4: not JSON"]
        assert report.replaced == 0


def test_files_of_one_name_are_told_apart_below_a_folder(tmp_path, read):
    for folder in ("c", "python"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.json").write_bytes(jsonl(["x"]))
    documents, _ = read(*sorted(tmp_path.rglob("*.json")), folder=str(tmp_path))
    assert [document.id for document in documents] == ["c/data.json:1", "python/data.json:1"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_record_longer_than_the_limit_is_counted_and_the_next_is_read(tmp_path, read, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](jsonl(["a", "b" * 3_000_000, "c"]) + jsonl(["d" * 2000])[:-1]))
    documents, report = read(file, max_record_bytes=1000)
    assert [document.text for document in documents] == ["a", "c"]
    assert report.bad == {"longer than 1000 bytes": 2}
    assert report.examples[0].place == "2"
    exact = len(jsonl(["a"])) - 1
    assert read(file, max_record_bytes=exact)[1].documents == 2


@pytest.mark.parametrize("content", [b'[\n{"text": "a"},\n{"text": "b"}\n]', b'[{"text": "a"}, {"text": "b"}]'])
def test_a_json_array_is_told_how_to_become_lines(tmp_path, read, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is one JSON array.*jq -c '\.\[\]' 'a\.json' > 'a\.jsonl'"):
        read(tmp_path / "a.json")


def test_utf16_is_refused_rather_than_counted_line_by_line(tmp_path, read):
    (tmp_path / "a.jsonl").write_bytes('{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.jsonl is UTF-16: convert it with iconv"):
        read(tmp_path / "a.jsonl")


def test_a_file_that_vanished_after_planning_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jsonl cannot be read: No such file"):
        list(read_part((Slice(str(tmp_path / "gone.jsonl")),), Reading(), ReadReport()))
