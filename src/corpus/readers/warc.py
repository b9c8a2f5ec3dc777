"""Documents out of web archives: WARC files of crawls (ISO 28500) and the WET files of Common Crawl, which hold text.

Records are read here rather than with a library because damage has to be passed over and counted: behind it the next
record is looked for. A page is a response of status 200 with HTML or plain text; other records are counted as skipped.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress

from datatrove.data import Document

from src.corpus.readers.charset import decode_page
from src.corpus.readers.compressed import Damage
from src.corpus.readers.html import page_text
from src.corpus.readers.slices import Input, Stream, open_stream
from src.errors import UserError

MAX_HEADER_BYTES = 1 << 16
STEP_BYTES = 1 << 20
MAX_LENGTH_DIGITS = 18  # no file is longer, and Python refuses to read numbers of thousands of digits
HTML_TYPES = ("text/html", "application/xhtml+xml")
TOP_LEVEL_TYPES = ("application", "audio", "font", "image", "text", "video")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?\s+(\d{3})")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w:.-]+)""", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")
_HEADER_END = re.compile(rb"\r?\n\r?\n")

Headers = dict[str, str]  # names in lower case


def read_warc(input: Input) -> Iterator[Document]:
    """The pages of a file; an id is the file and the record's number, metadata has its ``url``."""
    with open_stream(input.path) as stream:
        input.begin(input.size)
        number = 0
        while True:
            headers = _next_headers(input, stream, number)
            if headers is None:
                damage = stream.resume()
                if damage is None:
                    break
                input.damaged(number + 1, damage)
                continue
            number += 1
            body = _body(input, stream, number, headers)
            input.advance(stream.position)
            page = None if body is None else _page(input, headers, body)
            if page is not None and input.accept(*page):
                url = headers.get("warc-target-uri", "").strip("<>")
                yield Document(page[0], f"{input.name}:{number}", metadata={"url": url})
        input.finish()


def _next_headers(input: Input, stream: Stream, number: int) -> Headers | None:
    """Headers of the next record; None where the stream ends. What is no record is passed over and counted once."""
    found = False
    while line := stream.readline(MAX_HEADER_BYTES):
        if line.startswith(b"WARC/"):
            return _headers(stream)
        if not found and not line.isspace():
            if number == 0 and not input.torn:
                raise UserError(f"{input.path} is not a WARC file: rename it to what it is, or fetch it again")
            input.damaged(number + 1, Damage("not a WARC record", 0))
            found = True
    return None


def _headers(stream: Stream) -> Headers:
    headers: Headers = {}
    while (line := stream.readline(MAX_HEADER_BYTES)) and not line.isspace():
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def _body(input: Input, stream: Stream, number: int, headers: Headers) -> bytes | None:
    """The block of a record; None for one that makes no document, because of what it is or because it is not whole."""
    kind, length = headers.get("warc-type", ""), headers.get("content-length", "")
    if not length.isdecimal() or len(length) > MAX_LENGTH_DIGITS:
        input.bad(number, "WARC record without a length")
        return None
    size = int(length)
    if kind not in ("response", "resource", "conversion"):
        input.report.skipped[f"{kind if kind.isalpha() else 'unknown'} record"] += 1
    elif size > input.reading.max_record_bytes:
        input.bad(number, f"longer than {input.reading.max_record_bytes} bytes")
    else:
        body = stream.read(size)
        if len(body) == size:
            return body
        if not stream.stopped:  # else the damage is counted when it is passed over
            input.bad(number, "WARC record is cut short")
        return None
    while size > 0 and (passed := len(stream.read(min(size, STEP_BYTES)))):
        size -= passed
    return None


def _page(input: Input, headers: Headers, body: bytes) -> tuple[str, bool] | None:
    """The text of a record, and whether characters were replaced in it; None for what is no page."""
    skipped = input.report.skipped
    content_type = headers.get("content-type", "text/plain")
    if headers.get("warc-type") == "response":
        status = _STATUS.match(body)
        if status is None or status.group(1) != b"200":
            skipped[f"status {status.group(1).decode()}" if status else "not HTTP"] += 1
            return None
        headers, body = _response(body, input.reading.max_record_bytes)
        content_type = headers.get("content-type", "text/html")
        if (encoding := headers.get("content-encoding", "")) in ("br", "zstd"):
            skipped[f"{encoding} content"] += 1
            return None
    media = content_type.partition(";")[0].strip().lower()
    if media not in (*HTML_TYPES, "text/plain"):
        top = media.partition("/")[0]
        skipped[f"{top if top in TOP_LEVEL_TYPES else 'unknown'} content"] += 1
        return None
    charset = _CHARSET.search(content_type)
    text, replaced = decode_page(body, charset.group(1) if charset else None)
    if media in HTML_TYPES:
        text = page_text(text, main_content=input.reading.main_content)
    return text, replaced


def _response(raw: bytes, max_bytes: int) -> tuple[Headers, bytes]:
    """Headers and content of an HTTP response, its chunks joined and its compression undone as far as that works."""
    end = _HEADER_END.search(raw)
    head, body = (raw[: end.start()], raw[end.end() :]) if end else (raw, b"")
    headers: Headers = {}
    for line in head.splitlines()[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _joined_chunks(body)
    if headers.get("content-encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
        with suppress(zlib.error):  # crawlers often store the content decompressed under its old header
            body = zlib.decompressobj(wbits=47).decompress(body, max_bytes)
    return headers, body


def _joined_chunks(body: bytes) -> bytes:
    """The content of a chunked body (RFC 9112, 7.1); unchanged where it is not in chunks after all."""
    content = bytearray()
    at = 0
    while (end := body.find(b"\n", at)) >= 0:
        size_text = body[at:end].partition(b";")[0].strip()
        if not _CHUNK_SIZE.fullmatch(size_text):
            return bytes(content) if content else body
        size = int(size_text, 16)
        if size == 0:
            break
        content += body[end + 1 : end + 1 + size]
        at = end + 1 + size + 2
    return bytes(content) if content else body
