"""Web archives: pages become documents, other records are counted, and damage is passed over."""

import gzip

import pytest

from src.errors import UserError

CHINESE = "北京的春天很短，风很大，花开得却很好。"


def record(kind, body, content_type="application/http; msgtype=response", url="http://example.org/", version="1.0"):
    head = f"WARC/{version}\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def response(body, content_type="text/html", status=200, more=""):
    return f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\n{more}\r\n".encode() + body


def html(text):
    return f"<html><body><script>var x;</script><p>{text}</p></body></html>"


def chunked(body):
    return b"%x\r\n" % 5 + body[:5] + b"\r\n" + b"%x;x=y\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\n\r\n"


RECORDS = [
    record("warcinfo", b"software: test", "application/warc-fields"),
    record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
    record("response", response(html(CHINESE).encode("gbk"), "text/html; charset=gb2312"), url="<http://a.cn/>"),
    record("response", response(html("gone").encode(), status=404)),
    record("response", response(b"\x89PNG", "image/png")),
    record("response", response(b"{}", "application/json")),
    record("response", response(chunked(html("joined chunks").encode()), more="Transfer-Encoding: chunked\r\n")),
    record("response", response(gzip.compress(html("unpacked").encode()), more="Content-Encoding: gzip\r\n")),
    record("response", response(html("never packed").encode(), more="Content-Encoding: gzip\r\n")),
    record("response", response(b"plain & <simple>", "text/plain")),
    record("response", response(html("").encode())),
    record("resource", html("resource").encode(), "text/html", version="1.1"),
    record("revisit", b""),
    record("response", b"no http at all"),
    record("response", response(b"?", more="Content-Encoding: br\r\n")),
]
TEXTS = [CHINESE, "joined chunks", "unpacked", "never packed", "plain & <simple>", "resource"]


@pytest.fixture(autouse=True)
def resiliparse():
    pytest.importorskip("resiliparse")


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"1_0", b"", b"five"])
def test_what_is_no_chunk_size_ends_the_chunks(tmp_path, read, size):
    body = html("first chunk").encode()
    chunks = b"%x\r\n%s\r\n" % (len(body), body)
    more = "Transfer-Encoding: chunked\r\n"
    file = tmp_path / "crawl.warc"
    unchunked = record("response", response(size + b"\r\nplain", "text/plain", more=more))
    file.write_bytes(record("response", response(chunks + size + b"\r\nrest", more=more)) + unchunked)
    texts = [document.text for document in read(file)[0]]
    assert texts[0] == "first chunk" and texts[1].endswith("plain")


def test_a_length_of_thousands_of_digits_is_none(tmp_path, read):
    file = tmp_path / "crawl.warc"
    one = record("response", response(html("one").encode()))
    file.write_bytes(one.replace(b"Content-Length: ", b"Content-Length: " + b"9" * 5000) + one)
    documents, report = read(file)
    assert [document.text for document in documents] == ["one"]
    assert report.bad["WARC record without a length"] == 1


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pages_become_documents_and_other_records_are_counted_by_reason(tmp_path, read, suffix):
    file = tmp_path / f"crawl.warc{suffix}"
    file.write_bytes(b"".join(gzip.compress(one) if suffix else one for one in RECORDS))
    documents, report = read(file)
    assert [document.text for document in documents] == TEXTS
    assert documents[0].id == f"{file.name}:3"
    assert documents[0].metadata == {"url": "http://a.cn/"}
    assert (report.empty, report.bad, report.lost_bytes) == (1, {}, 0)
    assert report.skipped == {
        "warcinfo record": 1,
        "request record": 1,
        "revisit record": 1,
        "status 404": 1,
        "image content": 1,
        "application content": 1,
        "not HTTP": 1,
        "br content": 1,
    }
    assert report.position == report.input_bytes == file.stat().st_size


def test_text_of_a_wet_file_is_taken_as_it_is(tmp_path, read):
    file = tmp_path / "crawl.warc.wet.gz"
    file.write_bytes(gzip.compress(record("conversion", "<b> 文字\n第二行".encode(), "text/plain")))
    assert [document.text for document in read(file)[0]] == ["<b> 文字\n第二行"]


def test_a_damaged_member_costs_its_record_only(tmp_path, read):
    file = tmp_path / "crawl.warc.gz"
    first, middle, last = (gzip.compress(record("response", response(html(c * 9).encode()))) for c in "abc")
    file.write_bytes(first + middle[:20] + b"\xff" * 30 + middle[50:] + last)
    documents, report = read(file)
    assert [document.text for document in documents] == ["a" * 9, "c" * 9]
    assert report.bad == {"damaged gzip member": 1}
    assert report.lost_bytes > 0


def test_a_record_with_a_wrong_length_is_passed_over_to_the_next(tmp_path, read):
    file = tmp_path / "crawl.warc"
    one, two = (record("response", response(html(text).encode())) for text in ("one", "two"))
    file.write_bytes(one + one.replace(b"Content-Length: 1", b"Content-Length: ") + two)
    documents, report = read(file)
    assert [document.text for document in documents][0 :: len(documents) - 1] == ["one", "two"]
    assert report.bad == {"not a WARC record": 1}


def test_a_record_cut_short_or_without_length_or_too_long_is_counted(tmp_path, read):
    file = tmp_path / "crawl.warc"
    one = record("response", response(html("one").encode()))
    no_length = one.replace(b"Content-Length", b"Content-Breadth")
    long = record("response", response(html("x" * 5000).encode()))
    file.write_bytes(one + no_length + long + one[:-20])
    documents, report = read(file, max_record_bytes=4000)
    assert [document.text for document in documents] == ["one"]
    assert report.bad["WARC record is cut short"] == report.bad["WARC record without a length"] == 1
    assert report.bad["longer than 4000 bytes"] == 1


def test_another_file_with_the_name_of_an_archive_is_refused(tmp_path, read):
    (tmp_path / "crawl.warc").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"crawl\.warc is not a WARC file"):
        read(tmp_path / "crawl.warc")
    (tmp_path / "crawl.warc").write_bytes(b"")
    assert read(tmp_path / "crawl.warc")[1].records == 0
