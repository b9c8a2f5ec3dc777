"""Plain text: what one document is, is a setting."""

import pytest


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("file", {"a.txt": "a\r\nb\n\n\nc"}),
        ("paragraph", {"a.txt:1": "a\r\nb\n", "a.txt:5": "c"}),
        ("line", {"a.txt:1": "a\r\n", "a.txt:2": "b\n", "a.txt:5": "c"}),
    ],
)
def test_a_text_file_is_a_document_or_paragraphs_or_lines(tmp_path, read, mode, expected):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\n\n\nc")
    documents, _ = read(file, txt_documents=mode)
    assert {document.id: document.text for document in documents} == expected


def test_other_encodings_are_a_setting_and_invalid_bytes_are_counted(tmp_path, read):
    file = tmp_path / "a.txt"
    file.write_bytes("汉字\n".encode("gb18030"))
    assert read(file, encoding="gb18030")[0][0].text == "汉字\n"
    documents, report = read(file)
    assert "\ufffd" in documents[0].text and report.replaced == 1


@pytest.mark.parametrize("mode", ["file", "paragraph", "line"])
def test_text_longer_than_the_limit_is_counted(tmp_path, read, mode):
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 5000 + b"\n" + b"x" * 5000)
    documents, report = read(file, txt_documents=mode, max_record_bytes=4000)
    assert documents == []
    assert report.bad == {"longer than 4000 bytes": 2 if mode == "line" else 1}


def test_an_empty_file_is_an_empty_document(tmp_path, read):
    (tmp_path / "a.txt").write_bytes(b"")
    assert read(tmp_path / "a.txt")[1].empty == 1
