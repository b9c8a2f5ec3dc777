"""Sentence ends: lossless on any text, and where a reader would put them."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.sentences import REACH, SentenceEnds, sentence_ends
from src.errors import UserError

PIECES = st.sampled_from(
    [
        *(" ", "\n", "\r\n", "\r", "\n\n", "\u2028", "\u2029", "\t", "\u3000", "\x00"),
        *(".", "!", "?", "…", "。", "！", "”", "」", ")", "- ", "1"),
        *("Mr", "e.g", "A", "word", "小", "😀", "e\u0301"),
    ]
)


LONG = st.sampled_from(
    [" " * 600, "\n" * 700, "." * 600, "。" * 250, "”" * 200, "月" * 250, "word " * 60, "etc. and " * 20]
)


def split(text, language):
    raw = text.encode()
    ends = [0, *sentence_ends(raw, language).tolist()]
    return [raw[a:b].decode() for a, b in pairwise(ends)]


@pytest.mark.parametrize("language", ["zh", "en", "code"])
@given(text=st.text(max_size=80) | st.lists(PIECES, max_size=40).map("".join))
@settings(max_examples=200, deadline=None)
def test_sentences_joined_are_the_text_and_none_is_empty(language, text):
    ends = sentence_ends(text.encode(), language)
    assert ends.dtype == np.int64
    sentences = split(text, language)  # decoding proves that no border cuts a character
    assert "".join(sentences) == text
    assert all(sentences)


@pytest.mark.parametrize("language", ["zh", "en", "code"])
@given(before=LONG | st.just(""), text=st.lists(PIECES, max_size=14).map("".join), after=LONG | st.just(""))
@settings(max_examples=80, deadline=None)
def test_ends_looked_for_between_two_places_are_all_ends_that_lie_there(language, before, text, after):
    raw = (before + text + after).encode()
    everything = sentence_ends(raw, language).tolist()[:-1]
    first, last = len(before.encode()), len((before + text).encode())
    early = max(0, first - 200)
    for place in range(first, last + 1):
        near, far = SentenceEnds(raw, language), SentenceEnds(raw, language)
        assert near.between(place, last) == [end for end in everything if place < end <= last]
        assert far.between(early, place) == [end for end in everything if early < end <= place]


@pytest.mark.parametrize("language", ["zh", "en", "code"])
def test_the_ends_near_a_place_are_found_without_searching_the_text(language):
    raw = "A line of words.\n月光。\n".encode() * 100_000
    sentences = SentenceEnds(raw, language)
    start = time.process_time()
    for high in range(1_000_000, 1_000_500):
        assert sentences.between(high - REACH, high)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("zh", ["今天天气好。", "我们去公园！", "你呢？"]),
        ("zh", ["他说：“走吧。”", "然后走了……", "没人知道。\n", "第二段"]),
        ("zh", ["版本 3.5 的 a.b 文件。", "See this.", " 下一句"]),
        ("zh", ["床前明月光，疑是地上霜。\r\n", "\r\n", "舉頭望明月"]),
        ("en", ["It rained.", " We left!", ' "Why?"', " Nobody knew."]),
        ("en", ["Mr. Smith met Dr. J. R. Jones, Ph.D. in the U.S. capital.", " They talked."]),
        ("en", ["See e.g. Fig. 3 or approx. 4.5 percent.", " Then stop."]),
        ("en", ['"What?" he asked, and wrote\nit down on the next line.', " (Really.)", " Yes."]),
        ("en", ["A heading without a dot\n\n", "The first sentence.\n\n", "The second."]),
        ("en", ["Things:\n\n", "- one\n", "- two wraps\n  over lines\n", "1. three\n", "2. four"]),
        ("code", ["def f():\n", "    return 1.5  # x. Y\n", "\n", "f()"]),
        ("code", ["a\r\n", "b\r", "c\u2028", "d"]),
    ],
)
def test_borders_lie_where_a_reader_puts_them(language, sentences):
    assert split("".join(sentences), language) == sentences


@pytest.mark.parametrize("language", ["zh", "en", "code"])
@pytest.mark.parametrize("text", [" " * 400_000, ". " * 200_000, "\n" * 400_000, "a." * 200_000, "\n " * 200_000])
def test_a_text_made_to_be_slow_is_split_in_linear_time(language, text):
    start = time.process_time()
    sentence_ends(text.encode(), language)
    assert time.process_time() - start < 2


def test_an_unknown_language_is_an_error():
    for find in (sentence_ends, SentenceEnds):
        with pytest.raises(UserError, match="'de' has no sentence rules: choose one of zh, en, code"):
            find(b"x", "de")
