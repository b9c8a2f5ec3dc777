"""Every character has one kind, the one that Unicode gives it."""

import sys
import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning import characters
from src.corpus.cleaning.characters import code_points, folded, kinds_of

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=50)


def test_kinds_follow_what_a_character_is():
    kinds = kinds_of(code_points("\n \u3000\u200b+,。5aÉ中か𠀀😀"))
    names = "NEWLINE SPACE SPACE OTHER SYMBOL PUNCTUATION TERMINAL DIGIT LETTER LETTER HAN HAN HAN SYMBOL"
    assert kinds.tolist() == [getattr(characters, name) for name in names.split()]


@given(ANY_TEXT)
def test_every_code_point_has_a_kind_and_letters_are_those_of_unicode(text):
    kinds = kinds_of(code_points(text))
    assert len(kinds) == len(text)
    for character, kind in zip(text, kinds, strict=True):
        if ord(character) < 0x20000 and kind == characters.LETTER:
            assert unicodedata.category(character)[0] in "LM"


@given(ANY_TEXT)
def test_folding_keeps_the_length_and_is_done_after_one_time(text):
    once = folded(code_points(text))
    assert len(once) == len(text)
    assert np.array_equal(folded(once), once)


def test_capital_letters_of_four_alphabets_become_small():
    assert folded(code_points("ABZ ÉÜ ΑΩ ЖЯ Ա 中")).tolist() == code_points("abz éü αω жя ա 中").tolist()


def test_the_last_code_point_is_no_error():
    assert kinds_of(np.array([sys.maxunicode], np.uint32)).tolist() == [characters.OTHER]
