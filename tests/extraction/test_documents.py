"""Documents out of texts, files and folders, and what is said of those that can't be read."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from src.errors import UserError
from src.extraction.documents import Document, Fields, read_documents, row_line, with_table_lines

PAGE = """<html><head><title>A &amp; B</title></head><body><p>Before the table.</p><table>
<tr><th>Name</th><th>Born</th></tr><tr><td>Ada <b>Lovelace</b></td><td>1815</td></tr><tr><td>Alan Turing</td><td></td>
</tr></table><table><tr><th>Capital</th><td>Paris</td></tr><tr><th>Rivers</th><td>Seine</td><td>Loire</td></tr></table>
<p>After the table.</p></body></html>"""


def test_a_text_file_and_a_markdown_file_are_one_document_each_and_hidden_files_none(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("One.\nTwo.\n", encoding="utf-8-sig")
    (tmp_path / "b" / "c.md").write_text("# Titel 题", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / "other.pdf").write_text("x")
    found = list(read_documents(tmp_path))
    assert found == [Document("a.txt", "One.\nTwo.\n", "a.txt"), Document("b/c.md", "# Titel 题", "b/c.md")]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_line_of_jsonl_is_a_document_named_by_id_or_place(tmp_path: Path, ending: str) -> None:
    rows = [{"id": 7, "text": "一\u2028二", "title": "T"}, {"text": " "}, {"input": "y"}]
    raw = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + b"\n\n"
    packed = {"": raw, ".gz": gzip.compress(raw), ".zst": zstandard.compress(raw)}[ending]
    file = tmp_path / f"d.jsonl{ending}"
    file.write_bytes(packed)
    assert list(read_documents(file)) == [
        Document("7", "一\u2028二", file.name, "T"),
        Document(f"{file.name}:3", "y", file.name),
    ]


def test_a_csv_row_is_its_text_or_all_its_columns_with_their_headers(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('id,body,year\na,"Two\nlines, one cell",1815\n,x,\n', encoding="utf-8")
    whole = list(read_documents(file))
    assert [document.text for document in whole] == ["id: a | body: Two lines, one cell | year: 1815", "body: x"]
    assert [document.id for document in whole] == ["a", "t.csv:4"]
    named = list(read_documents(file, Fields(text="body")))
    assert [document.text for document in named] == ["Two\nlines, one cell", "x"]


def test_a_tsv_file_is_cut_at_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text\tid\na, b\t1\n")
    assert list(read_documents(tmp_path / "t.tsv")) == [Document("1", "a, b", "t.tsv")]


def test_tables_of_a_page_become_lines_with_their_headers(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text(PAGE, encoding="utf-8")
    (document,) = read_documents(tmp_path / "p.html")
    assert document.title == "A & B"
    assert [line for line in document.text.splitlines() if line] == [
        "Before the table.",
        "Name: Ada Lovelace | Born: 1815",
        "Name: Alan Turing",
        "Capital: Paris",
        "Rivers: Seine | Loire",
        "After the table.",
    ]


def test_a_table_for_layout_stays_as_it_is() -> None:
    page = "<html><head></head><body><table><tbody><tr><td>menu</td><td>text</td></tr></tbody></table></body></html>"
    assert with_table_lines(page) == page


def test_a_row_with_more_cells_than_headers_keeps_them() -> None:
    assert row_line(["a"], ["1", " 2\n3 ", ""]) == "a: 1 | 2 3"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', r"d\.jsonl:2 is not JSON"),
        ("d.jsonl", b'{"text": "a"}\n[1]\n', r"d\.jsonl:2 is list"),
        ("d.jsonl", b'{"body": "a"}\n', r"d\.jsonl:1 has no text in field text or input \(it has body\)"),
        ("d.csv", b'a,b\n1,"2\n', r"d\.csv:2 is not CSV"),
        ("d.csv", b"a,b\n1,2,3\n", r"d\.csv:2 has 3 cells"),
        ("d.csv", "a\nä".encode("latin-1"), r"d\.csv:2 is not UTF-8"),
        ("d.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9)[:-9], r"d\.jsonl\.gz.*cut short"),
        ("d.txt", "居里夫人".encode("gbk"), r"d\.txt is not UTF-8"),
        ("d.csv", b"id;text\n1;a\n", r"one column, 'id;text': put commas"),
        ("d.pdf", b"x", "none of the formats"),
        ("d.jsonl.zst", b"not packed", "not a .zst file"),
    ],
)
def test_what_cant_be_read_is_named_with_file_and_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        list(read_documents(tmp_path / name))


def test_missing_files_and_empty_folders_and_missing_columns_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list(read_documents(tmp_path / "no.txt"))
    with pytest.raises(UserError, match="has none of the files"):
        list(read_documents(tmp_path))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column 'body': it has a, b"):
        list(read_documents(tmp_path / "t.csv", Fields(text="body")))
    with pytest.raises(UserError, match="lone surrogates"):
        Document("d", "a\ud800")


def test_cells_that_span_rows_and_columns_keep_their_headers(tmp_path: Path) -> None:
    table = (
        "<table><tr><th colspan=3>France</th></tr><tr><th>Region</th><th>Town</th><th>River</th></tr>"
        "<tr><td rowspan=2>North</td><td>Lille</td><td>De\u00fble</td></tr><tr><td>Rouen</td><td>Seine</td></tr>"
        "<tr><td colspan=2>Paris</td><td>Seine</td></tr></table>"
    )
    (tmp_path / "t.html").write_text(table, encoding="utf-8")
    (document,) = read_documents(tmp_path / "t.html")
    assert document.text.splitlines() == [
        "France",
        "Region: North | Town: Lille | River: De\u00fble",
        "Region: North | Town: Rouen | River: Seine",
        "Region: Paris | River: Seine",
    ]


def test_a_page_that_is_all_navigation_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text("<nav><a href=x>Marie Curie</a></nav>", encoding="utf-8")
    assert [document.text for document in read_documents(tmp_path / "p.html")] == ["Marie Curie"]
