"""Normalising changes how a text is written, once, and never what it says."""

import importlib.util
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.normalise import Normalise
from src.corpus.steps import Drop
from src.errors import UserError

PIECES = st.sampled_from(["\r", "\n", "\0", "e", "\u0301", "\ufeff", "中", "ﬁ", "\u1100\u1161", "Ã©", "\ufffd", "\x85"])
ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(PIECES, max_size=20).map("".join),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=40),  # also lone surrogates
)


@given(ANY_TEXT, st.sampled_from(["NFC", "NFKC", "none"]), st.booleans())
def test_normalising_twice_is_normalising_once(text, form, invisible):
    step = Normalise(form, invisible=invisible, max_mojibake=None)
    once = step.apply(text)
    assert isinstance(once, str)
    assert step.apply(once) is once
    once.encode("utf-8")


@pytest.mark.parametrize("text", ["plain\n\ttext", "", "中文，没有什么可做。", "café 😀 \u200d"])
def test_a_normal_text_comes_back_as_the_same_object(text):
    assert Normalise().apply(text) is text


def test_what_is_changed_is_counted():
    step = Normalise()
    assert step.apply("a\r\nb\rc\0\x1b\u200bd\ufeff e\u0301") == "a\nb\ncd é"
    assert step.report.counters == {"control_characters": 2, "invisible_characters": 2, "line_ends": 2}


def test_line_ends_form_feeds_and_invisible_characters_are_settings():
    text = "a\r\n\f\u200bb"
    assert Normalise().apply(text) == "a\nb"
    assert Normalise(line_ends=False, form_feeds=True, invisible=True).apply(text) is text


def test_full_width_letters_become_plain_with_nfkc_only():
    assert Normalise("NFC").apply("ＡＢＣ") == "ＡＢＣ"
    assert Normalise("NFKC").apply("ＡＢＣ") == "ABC"


@pytest.mark.parametrize(
    "text",
    [
        "L\u00c3\u00a9o est all\u00c3\u00a9",
        "\u00e4\u00b8\u00ad\u00e6\u2013\u2021",  # 中文 in UTF-8 read as Windows-1252
        "锟斤拷锟斤拷，这里",
        "it\u00e2\u20ac\u2122s",
        "b\ufffd\ufffdse",
        "烫烫烫烫烫烫",
        "ï¿½ï¿½",
    ],
)
def test_wrongly_decoded_text_is_dropped(text):
    drop = Normalise().apply(text)
    assert isinstance(drop, Drop)
    assert drop.rule == "mojibake"


@pytest.mark.parametrize(
    "text",
    ["Ça va, Noël à l'été, «blé» naïve Ångström", "SÃO PAULO, AÇÃO", "涓涓细流", "烫伤，水很烫烫的", "Привет, мир"],
)
def test_rightly_decoded_text_is_kept(text):
    step = Normalise()
    assert step.apply(text) is text
    assert step.report.counters == {}


def test_a_little_mojibake_in_a_long_text_is_kept_and_counted():
    step = Normalise()
    text = "很长的文字。" * 100 + "\ufffd"
    assert step.apply(text) is text
    assert step.report.counters == {"mojibake": 1}


def test_the_share_of_mojibake_is_a_setting():
    assert isinstance(Normalise(max_mojibake=0.5).apply("ab\ufffd"), str)
    assert isinstance(Normalise(max_mojibake=None).apply("\ufffd"), str)


def test_traditional_characters_become_simplified():
    pytest.importorskip("opencc")
    step = Normalise(simplified=True)
    assert step.apply("漢語與繁體字") == "汉语与繁体字"
    assert pickle.loads(pickle.dumps(step)).apply("漢語") == "汉语"


def test_simplifying_without_the_package_says_what_to_install(monkeypatch):
    if importlib.util.find_spec("opencc"):
        monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(UserError, match="pip install opencc"):
        Normalise(simplified=True)


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match="NFX"):
        Normalise("NFX")  # type: ignore[arg-type]
