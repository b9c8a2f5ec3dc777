"""Which characters the bytes of a web page mean.

Pages say their charset in the HTTP header, in a ``meta`` tag, or not at all, and Chinese ones are often wrong about it.
Bytes that are UTF-8 are almost never anything else, so that is tried first; then what the page says, a single-byte
charset last, because it can be read into any bytes; then the guess of a detector (uchardet, in resiliparse). Labels
mean what browsers take them for (encoding.spec.whatwg.org): GB2312 is read as GB18030, Latin-1 as Windows-1252.
"""

import codecs
import re
from contextlib import suppress
from importlib.util import find_spec

MAX_WRONG = 0.01  # of a page's characters, for a charset to be the right one all the same
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w:.-]{2,40})""", re.IGNORECASE)
_META_BYTES = 4096
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_BROADER = {
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "gb2312-80", "x-gbk", "hz-gb-2312", "cp936"), "gb18030"),
    **dict.fromkeys(("big5", "big5-hkscs", "x-x-big5", "cn-big5"), "big5hkscs"),
    **dict.fromkeys(("iso-8859-1", "latin1", "us-ascii", "ascii", "windows-1252"), "cp1252"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
}


def decode_page(raw: bytes, declared: str | None = None) -> tuple[str, bool]:
    """The text of a page, and whether bytes in it had to be replaced by U+FFFD.

    Args:
        declared: charset of the HTTP header. A character that the end of the page cuts in two is left out.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _decode(raw[len(mark) :], encoding)
    meta = _META.search(raw[:_META_BYTES])
    said = [name for name in (declared, meta.group(1).decode("ascii") if meta else None) if name]
    names = sorted({name: 0 for label in said if (name := _codec(label))}, key=_reads_anything)
    for name in ["utf-8", *names]:
        with suppress(UnicodeDecodeError):
            return _decode_strictly(raw, name), False
    return _best(raw, [*names, "utf-8", *_detected(raw)])


def _best(raw: bytes, names: list[str]) -> tuple[str, bool]:
    """Decode with the first charset that few bytes contradict, or the one that the fewest do."""
    tried = []
    for name in dict.fromkeys(names):
        text, replaced = _decode(raw, name)
        wrong = text.count("\ufffd") if replaced else 0
        if wrong <= MAX_WRONG * len(text):
            return text, replaced
        tried.append((wrong, text))
    return min(tried)[1], True


def _decode_strictly(raw: bytes, name: str) -> str:
    return codecs.getincrementaldecoder(name)("strict").decode(raw)


def _decode(raw: bytes, name: str) -> tuple[str, bool]:
    with suppress(UnicodeDecodeError):
        return _decode_strictly(raw, name), False
    return raw.decode(name, "replace"), True


def _codec(label: str) -> str | None:
    """Python's name for a charset label; None for one that is unknown or no encoding of text."""
    label = label.strip().strip("\"'").lower()
    try:
        codec = codecs.lookup(_BROADER.get(label, label))
    except (LookupError, ValueError):
        return None
    return codec.name if codec._is_text_encoding and codec.name not in ("utf-16", "utf-7") else None


def _reads_anything(name: str) -> bool:
    return name.startswith(("cp125", "iso8859", "koi8", "latin"))


def _detected(raw: bytes) -> list[str]:
    """What resiliparse's detector guesses; nothing where it is not installed, as it need not be for plain text."""
    if find_spec("resiliparse") is None:
        return []
    from resiliparse.parse.encoding import detect_encoding

    return [name] if (name := _codec(detect_encoding(raw) or "")) else []
