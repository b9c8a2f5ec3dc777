"""Shingles: the same as those of a slow and plain implementation, whatever the text and the batch it is in."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.dedup.shingles import BLOCK_CHARACTERS, TABLE_SIZE, UNSPACED, shingle_hashes, token_hashes

TEXT = st.text(
    st.sampled_from("aAbBéÉßœΣς09 \n\t.,_-。！今天气は한국กา\u0301\u0915\u093f\U00020000😀\x00\u2028\ud800")
    | st.characters(),
    max_size=60,
)


def plain_tokens(text: str) -> list[str]:
    tokens, word = [], ""
    for character in text:
        point = ord(character)
        is_text = point < TABLE_SIZE and unicodedata.category(character)[0] in "LMN"
        if is_text and not any(start <= point < end for start, end in UNSPACED):
            word += character.lower()[0]
            continue
        tokens += [word] if word else []
        word = ""
        tokens += [character.lower()[0]] if is_text else []
    return tokens + ([word] if word else [])


def plain_shingles(text: str, ngram: int) -> list[tuple[str, ...]]:
    tokens = plain_tokens(text)
    if len(tokens) < ngram:
        return [tuple(tokens)] if tokens else []
    return [tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)]


@given(texts=st.lists(TEXT, max_size=6), ngram=st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_hashes_are_equal_exactly_where_plain_shingles_are(texts, ngram):
    hashes, counts = shingle_hashes(texts, ngram)
    plain = [plain_shingles(text, ngram) for text in texts]
    assert counts.tolist() == [len(shingles) for shingles in plain]
    pairs = set(zip((s for shingles in plain for s in shingles), hashes.tolist(), strict=True))
    assert len(pairs) == len({s for s, _ in pairs}) == len({h for _, h in pairs})


@given(texts=st.lists(TEXT, min_size=1, max_size=6), ngram=st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_a_text_has_the_same_shingles_alone_and_in_a_batch(texts, ngram):
    together = shingle_hashes(texts, ngram)[0].tolist()
    assert together == [h for text in texts for h in shingle_hashes([text], ngram)[0].tolist()]


@pytest.mark.parametrize("words", [["fox", "jumps", "Straße"], ["今", "天", "fox"]])
def test_words_over_the_border_of_a_block_stay_whole(words):
    text = " ".join(words * (BLOCK_CHARACTERS // 3))
    assert len(text) > 2 * BLOCK_CHARACTERS
    hashes, places = token_hashes(text)
    assert len(hashes) == len(plain_tokens(text))
    assert len(set(hashes.tolist())) == 3
    assert np.all(np.diff(places) > 0)


def test_a_word_longer_than_a_block_ends_all_the_same():
    hashes, places = token_hashes("x" * (3 * BLOCK_CHARACTERS) + " end")
    assert places.tolist() == [0, BLOCK_CHARACTERS, 2 * BLOCK_CHARACTERS, 3 * BLOCK_CHARACTERS + 1]
    assert len(hashes) == 4


def test_a_million_different_words_have_different_hashes():
    hashes, _ = token_hashes(" ".join(map(str, range(300_000))) + " " + " ".join(f"w{i:x}" for i in range(700_000)))
    assert len(np.unique(hashes)) == 1_000_000
