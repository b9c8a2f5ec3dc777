"""Charsets of web pages, said rightly, wrongly or not at all."""

import pytest

from src.corpus.readers.charset import decode_page

CHINESE = "北京的春天很短，风很大，花开得却很好。人们在公园里散步，孩子们放风筝。"
TRADITIONAL = "臺北的春天很長，風很小，花開得很好。人們在公園裡散步，孩子們放風箏。"


def meta(charset, text):
    return f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={charset}">{text}'


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("gb2312", "gb18030", CHINESE + "喆镕"),  # not in GB2312, and common in names
        ("GBK", "gbk", CHINESE),
        ("big5", "big5", TRADITIONAL),
        ("utf-8", "utf-8", CHINESE),
        ("utf-8", "gb18030", CHINESE),  # says UTF-8 and is not: the detector has the last word
        ("iso-8859-1", "cp1252", "“café”"),
        ("shift_jis", "cp932", "東京の春は短い。"),
    ],
)
def test_a_page_is_read_in_the_charset_of_its_meta_tag(charset, codec, text):
    if charset == "utf-8" and codec != "utf-8":
        pytest.importorskip("resiliparse")
    page = meta(charset, text)
    assert decode_page(page.encode(codec)) == (page, False)


def test_what_is_utf8_is_read_as_that_whatever_is_said():
    page = meta("gb2312", CHINESE)
    assert decode_page(page.encode(), "iso-8859-1") == (page, False)


def test_a_single_byte_charset_in_the_header_gives_way_to_the_page():
    page = meta("gbk", CHINESE)
    assert decode_page(page.encode("gbk"), "ISO-8859-1") == (page, False)


@pytest.mark.parametrize("codec", ["gb18030", "big5", "utf-8"])
def test_what_is_not_said_is_detected(codec):
    pytest.importorskip("resiliparse")
    text = (TRADITIONAL if codec == "big5" else CHINESE) * 5
    assert decode_page(text.encode(codec)) == (text, False)


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_decides(mark):
    assert decode_page(CHINESE.encode(mark), "gbk") == (CHINESE, False)


def test_a_page_cut_within_a_character_loses_only_that():
    assert decode_page(CHINESE.encode()[:-1]) == (CHINESE[:-1], False)
    assert decode_page(meta("gbk", CHINESE).encode("gbk")[:-1]) == (meta("gbk", CHINESE)[:-1], False)


def test_a_few_wrong_bytes_do_not_change_the_charset():
    text, replaced = decode_page((CHINESE * 20).encode() + b"\xff" + CHINESE.encode())
    assert replaced and text == CHINESE * 20 + "\ufffd" + CHINESE


def test_bytes_that_mean_nothing_are_replaced_and_said_so():
    text, replaced = decode_page(meta("gbk", CHINESE).encode("gbk") + b"\xff\xff end")
    assert replaced and CHINESE in text and text.endswith("end") and "\ufffd" in text


@pytest.mark.parametrize("label", ["rot13", "hex", "x-unknown", "utf-7", "\x00", ""])
def test_labels_that_are_no_charset_are_passed_over(label):
    assert decode_page("汉字".encode(), label) == ("汉字", False)
