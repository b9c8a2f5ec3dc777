"""The parts of a source hold each of its documents once, however it is cut."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.corpus.readers import Reading, ReadReport, Slice, plan_parts, read_part
from src.errors import UserError

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# blank lines, texts with characters of one to four bytes, and lines that are no records
LINES = st.lists(st.sampled_from(["", " ", "a", "é", "汉字汉字", "😀" * 9, "x" * 70, "\u2028\x00", None]), max_size=25)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n"])


def read_all(parts, reading):
    """The documents of all parts, and the sum of their reports."""
    documents, total = [], ReadReport()
    for part in parts:
        report = ReadReport()
        documents += list(read_part(part, reading, report))
        total += report
    return documents, total


def json_line(text):
    return b"{broken" if text is None else b"" if not text.strip() else json.dumps({"text": text}).encode()


@SETTINGS
@given(lines=LINES, end=LINE_ENDS, mark=st.booleans(), last=st.booleans(), part_bytes=st.integers(1, 400))
@pytest.mark.parametrize("suffix", COMPRESS)
def test_parts_of_json_lines_hold_every_document_once(tmp_path, suffix, lines, end, mark, last, part_bytes):
    content = end.join(map(json_line, lines)) + (end if last else b"")
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix]((b"\xef\xbb\xbf" if mark else b"") + content))
    reading = Reading()
    documents, report = read_all(plan_parts([file], reading, part_bytes), reading)
    expected = [text for text in lines if text is not None and text.strip()]
    assert sorted(document.text for document in documents) == sorted(expected)
    assert len({document.id for document in documents}) == len(documents)
    assert report.bad.total() == lines.count(None)
    assert report.records == report.documents + report.empty + report.bad.total()
    assert report.position == report.input_bytes == file.stat().st_size


@SETTINGS
@given(
    lines=LINES,
    end=LINE_ENDS,
    last=st.booleans(),
    part_bytes=st.integers(1, 400),
    mode=st.sampled_from(["line", "paragraph", "file"]),
)
@pytest.mark.parametrize("suffix", COMPRESS)
def test_parts_of_text_hold_what_the_whole_file_holds(tmp_path, suffix, lines, end, last, part_bytes, mode):
    content = end.join((line or "").encode() for line in lines) + (end if last else b"")
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(COMPRESS[suffix](content))
    reading = Reading(txt_documents=mode)
    whole, _ = read_all([(Slice(str(file)),)], reading)
    documents, _ = read_all(plan_parts([file], reading, part_bytes), reading)
    assert sorted(document.text for document in documents) == sorted(document.text for document in whole)
    if mode == "file":
        assert [document.text.encode() for document in whole] == ([content] if content else [])
    if mode == "line":
        assert "".join(document.text for document in whole).split() == content.decode().split()


@SETTINGS
@given(rows=st.integers(0, 40), group=st.integers(1, 9), part_bytes=st.integers(1, 3000))
def test_parts_of_parquet_hold_every_row_once(tmp_path, rows, group, part_bytes):
    file = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(rows)]
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, "string")}), file, row_group_size=group)
    reading = Reading()
    documents, report = read_all(plan_parts([file], reading, part_bytes), reading)
    assert [document.text for document in documents] == texts
    assert [document.id for document in documents] == [f"a.parquet:{i + 1}" for i in range(rows)]
    assert report.position == report.input_bytes == file.stat().st_size


def test_big_files_are_divided_and_small_ones_put_together(tmp_path):
    for name, lines in {"a": 1, "b": 100, "c": 1, "d": 1}.items():
        (tmp_path / f"{name}.jsonl").write_bytes(b'{"text": "12345"}\n' * lines)
    files = sorted(tmp_path.iterdir())
    parts = plan_parts(files, Reading(), 600)
    assert [[(slice.file[-7:], slice.start, slice.end) for slice in part] for part in parts] == [
        [("a.jsonl", 0, None)],
        [("b.jsonl", 0, 600)],
        [("b.jsonl", 600, 1200)],
        [("b.jsonl", 1200, None)],
        [("c.jsonl", 0, None), ("d.jsonl", 0, None)],
    ]
    assert len(plan_parts(files, Reading())) == 1  # at least 4 MB


def test_a_compressed_file_is_shared_by_at_most_eight_strides(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "1"}\n' * 99))
    size = file.stat().st_size
    for part_bytes, strides in ((4 * size, 1), (4 * size - 1, 2), (size, 4), (1, 8)):
        parts = plan_parts([file], Reading(), part_bytes)
        assert [part[0].stride for part in parts] == [(i, strides) for i in range(strides)]


def test_a_limit_takes_the_first_documents_of_the_source_in_one_part(tmp_path):
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{name}{i}"}).encode() for i in range(5)]
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join([b"{bad", *lines]))
    reading = Reading(max_documents=7)
    parts = plan_parts(sorted(tmp_path.iterdir()), reading, 1)
    documents, report = read_all(parts, reading)
    assert len(parts) == 1
    assert [document.text for document in documents] == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]
    assert report.documents == 7


def test_files_that_are_not_what_they_are_called_are_refused_before_anything_is_read(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(b'{"text": "plain"}')
    with pytest.raises(UserError, match=r"a\.jsonl\.gz is not a \.gz file"):
        plan_parts([file], Reading())
    with pytest.raises(UserError, match=r"gone\.jsonl cannot be read: No such file"):
        plan_parts([tmp_path / "gone.jsonl"], Reading())
    with pytest.raises(UserError, match="part_bytes=0 is no size"):
        plan_parts([], Reading(), 0)


def test_the_parts_of_a_real_corpus_hold_its_documents_whatever_their_size(corpora):
    file = corpora / "en.jsonl.gz"
    reading = Reading()
    whole, report = read_all([(Slice(str(file)),)], reading)
    assert (report.documents, report.bad, report.replaced) == (len(whole), {}, 0)
    for part_bytes in (None, 3_000_000):
        parts = plan_parts([file], reading, part_bytes)
        documents, total = read_all(parts, reading)
        assert len(parts) > 1
        assert sorted((d.id, d.text) for d in documents) == sorted((d.id, d.text) for d in whole)
        assert total.input_bytes == total.position == file.stat().st_size
