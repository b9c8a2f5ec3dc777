"""Marks stay on their words when the text around them changes."""

import re

from hypothesis import given
from hypothesis import strategies as st

from src.instructions.kg2instruction.linked_text import LinkedText, Mark


@given(st.lists(st.sampled_from(["x", "--", "word", " "]), max_size=30), st.data())
def test_a_mark_on_words_that_stay_keeps_them(pieces: list[str], data: st.DataObject) -> None:
    starts = [sum(map(len, pieces[:i])) for i, piece in enumerate(pieces) if piece == "word"]
    text = "".join(pieces)
    marks = tuple(Mark(start, start + 4, "T") for start in starts)
    replacement = data.draw(st.sampled_from(["", "=", "<<<>>>"]))
    changed = LinkedText(text, marks).sub(re.compile("--|x"), replacement)
    assert changed.text == re.sub("--|x", replacement, text)
    assert [changed.text[mark.start : mark.end] for mark in changed.marks] == ["word"] * len(starts)


def test_a_mark_of_which_nothing_is_left_goes() -> None:
    assert LinkedText("a()b", (Mark(1, 3),)).sub(re.compile(r"\(\)"), "") == LinkedText("ab", ())


def test_a_cut_keeps_the_marks_that_lie_in_it() -> None:
    text = LinkedText("one two three", (Mark(0, 3, "One"), Mark(4, 7, "Two"), Mark(6, 10)))
    assert text.cut(4, 8) == LinkedText("two ", (Mark(0, 3, "Two"),))
