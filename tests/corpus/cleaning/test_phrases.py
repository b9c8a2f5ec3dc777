"""Every phrase of a list is found where it stands: Latin ones as whole words, Han ones anywhere."""

import re

from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.characters import code_points, folded
from src.corpus.cleaning.phrases import PhraseFinder

LETTERS = st.sampled_from(list("abA 中文字"))


def found(finder: PhraseFinder, text: str) -> list[tuple[int, str]]:
    return [(start, finder.phrases[index]) for start, index in finder.find(folded(code_points(text)))]


def test_latin_phrases_match_as_words_and_han_ones_anywhere():
    finder = PhraseFinder(["free spins", "时时彩", "ABC"])
    text = "Free Spins, freespins, free spinster, unfree spins; 玩时时彩吧 abc abcd xabc"
    assert found(finder, text) == [(0, "free spins"), (text.index("时"), "时时彩"), (text.index("abc"), "ABC")]


def test_the_longest_of_several_phrases_is_found():
    assert found(PhraseFinder(["百家", "百家乐", "真人百家乐"]), "真人百家乐百家") == [(0, "真人百家乐"), (5, "百家")]


@given(st.lists(st.text(LETTERS, min_size=2, max_size=6), max_size=8), st.text(LETTERS, max_size=60))
def test_the_same_is_found_as_by_a_regular_expression(phrases, text):
    finder = PhraseFinder(phrases)
    branches = []
    for phrase in sorted(set(phrases), key=len, reverse=True):
        before = r"(?<![a-z])" if re.match("[a-zA-Z]", phrase) else ""
        after = r"(?![a-z])" if re.search(r"[a-zA-Z]\Z", phrase) else ""
        branches.append(before + re.escape(phrase.lower()) + after)
    expected = [m.span() for m in re.finditer("|".join(branches), text.lower())] if branches else []
    assert [(start, start + len(phrase)) for start, phrase in found(finder, text)] == expected
