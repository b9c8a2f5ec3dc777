"""Readers: every format and compression gives the same documents, and what is bad is counted with its place."""

import gzip
import json
from itertools import chain

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from src.corpus.readers import ReadReport, find_files, read_documents
from src.errors import UserError

TEXTS = ["plain", "汉字 😀", "a\r\nb\u2028c\x00", "", "  blanks  "]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def jsonl(texts):
    return b"".join(json.dumps({"text": text, "n": 1}).encode() + b"\n" for text in texts)


def texts(files, **options):
    return [document.text for document in read_documents(files, **options)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_is_read_plain_and_compressed(tmp_path, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](jsonl(TEXTS)))
    documents = list(read_documents([file]))
    assert [document.text for document in documents] == TEXTS
    assert documents[1].id == f"{file.name}:2"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_may_be_made_of_several_parts(tmp_path, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](jsonl(["one"])) + COMPRESS[suffix](jsonl(["two"])))
    assert texts([file]) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path, suffix):
    file = tmp_path / f"short.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](jsonl(str(i) for i in range(9999)))[:-20])
    with pytest.raises(UserError, match=rf"short\.jsonl\{suffix} is damaged or cut short"):
        texts([file])


def test_parquet_gives_the_column_and_counts_missing_text(tmp_path):
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": [*TEXTS, None], "n": [1] * 6}), file)
    report = ReadReport()
    assert texts([file], text_field="body", report=report) == TEXTS
    assert report.examples == ["a.parquet:6: field 'body' is not a string"]
    with pytest.raises(UserError, match="no column 'text', only: body, n"):
        texts([file])
    file.write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not a Parquet file"):
        texts([file])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("file", ["a\r\nb\n\n\nc"]), ("paragraph", ["a\r\nb\n", "c"]), ("line", ["a\r\n", "b\n", "c"])],
)
def test_a_text_file_is_a_document_or_paragraphs_or_lines(tmp_path, mode, expected):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\n\n\nc")
    assert texts([file], txt_documents=mode) == expected


def test_bad_records_are_counted_by_reason_with_file_and_line(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [b'{"text": "good"}', b"{broken", b"", b'{"other": 1}', b'{"text": 5}', b'{"text": "\xff"}', b"[1]"]
    lines += [b'{"text": "\\ud800"}', b'{"text": "nan is fine", "score": NaN}', b'{"text": "last"}']
    file.write_bytes(b"\n".join(lines))
    report = ReadReport()
    assert texts([file], report=report) == ["good", "nan is fine", "last"]
    assert report.records == 9
    assert report.bad == {"not JSON": 1, "no field 'text'": 2, "field 'text' is not a string": 1, "not UTF-8": 2}
    assert report.examples[0] == "a.jsonl:2: not JSON"
    assert report.examples[1] == "a.jsonl:4: no field 'text'"
    assert report.position == file.stat().st_size


def test_workers_share_the_records_and_a_limit_counts_for_all(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, file in enumerate(files):
        file.write_bytes(jsonl(str(10 * number + i) for i in range(7)))
    everything = texts(files)
    shares = [texts(files, worker=worker, workers=3) for worker in range(3)]
    assert sorted(chain(*shares)) == sorted(everything)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    limited = [texts(files, worker=worker, workers=3, max_documents=9) for worker in range(3)]
    assert sorted(chain(*limited)) == sorted(everything[:9])


def test_files_are_found_in_folders_and_globs_and_others_are_refused(tmp_path):
    for name in ("b.jsonl", "sub/a.txt.gz", "sub/.hidden.jsonl", "image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_files(tmp_path) == [tmp_path / "b.jsonl", tmp_path / "sub" / "a.txt.gz"]
    assert find_files(f"{tmp_path}/**/*.txt.gz") == [tmp_path / "sub" / "a.txt.gz"]
    with pytest.raises(UserError, match="leads to no input file"):
        find_files(tmp_path / "none*")
    with pytest.raises(UserError, match=r"image\.png is none of the formats"):
        find_files(tmp_path / "image.png")
