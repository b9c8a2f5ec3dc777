"""Parquet: a column is read, and what cannot be read of it is counted in rows and bytes."""

import pyarrow
import pyarrow.parquet
import pytest

from src.errors import UserError


def test_the_column_is_read_and_missing_text_counted(tmp_path, read):
    texts = ["plain", "汉字 😀", "a\r\nb\u2028c\x00", "", "  blanks  "]
    pyarrow.parquet.write_table(pyarrow.table({"body": [*texts, None], "n": [1] * 6}), tmp_path / "a.parquet")
    documents, report = read(tmp_path / "a.parquet", text_field="body")
    assert [document.text for document in documents] == [text for text in texts if text]
    assert [str(example) for example in report.examples] == ["a.parquet:6: field 'body' is not a string"]
    assert report.empty == 1
    with pytest.raises(UserError, match="no column 'text', only: body, n"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("type", [pyarrow.string(), pyarrow.large_string(), pyarrow.binary()])
def test_invalid_utf8_in_a_column_is_replaced_and_counted(tmp_path, read, type):
    raw = pyarrow.array(
        [b"good", b"b\xffd"], pyarrow.large_binary() if type == pyarrow.large_string() else pyarrow.binary()
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": raw.view(type), "id": raw.view(type)}), tmp_path / "a.parquet")
    documents, report = read(tmp_path / "a.parquet", id_field="id")
    assert [document.text for document in documents] == ["good", "b\ufffdd"] == [document.id for document in documents]
    assert report.replaced == 1


def test_a_dictionary_column_is_text_too(tmp_path, read):
    column = pyarrow.array(["a", "b", "a"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert [document.text for document in read(tmp_path / "a.parquet")[0]] == ["a", "b", "a"]


def test_a_damaged_row_group_is_counted_by_its_rows_and_the_others_are_read(tmp_path, read):
    file = tmp_path / "a.parquet"
    texts = [f"{i} {'x' * i}" for i in range(90)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=30, compression="gzip")
    column = pyarrow.parquet.ParquetFile(file).metadata.row_group(1).column(0)
    raw = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    raw[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(raw)
    documents, report = read(file)
    assert [document.text for document in documents] == texts[:30] + texts[60:]
    assert documents[-1].id == "a.parquet:90"
    assert report.bad == {"damaged Parquet row group": 30}
    assert report.lost_bytes == column.total_compressed_size
    assert str(report.examples[0]) == "a.parquet:31: damaged Parquet row group"


def test_a_file_without_footer_is_lost_and_counted_but_another_format_is_refused(tmp_path, read):
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 99}), file)
    file.write_bytes(file.read_bytes()[:-20])
    documents, report = read(file)
    assert documents == []
    assert report.bad == {"Parquet file without a footer": 1}
    assert report.lost_bytes == report.position == file.stat().st_size
    file.write_bytes(b'{"text": 1}')
    with pytest.raises(UserError, match="not a Parquet file"):
        read(file)


def test_a_text_longer_than_the_limit_is_counted(tmp_path, read):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["汉" * 40, "a" * 100]}), tmp_path / "a.parquet")
    documents, report = read(tmp_path / "a.parquet", max_record_bytes=100)
    assert len(documents) == 1 and report.bad == {"longer than 100 bytes": 1}
