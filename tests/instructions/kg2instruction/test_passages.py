"""Pages are cut into paragraphs of whole sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.instructions.kg2instruction.passages import Limits, Passage, passages, sentences

TEXT = "One is here. Two is there! Three was never seen."


@given(st.integers(13, 60))
def test_long_paragraphs_are_cut_between_sentences_and_nothing_is_lost(most: int) -> None:
    found = list(passages(TEXT, "en", Limits(1, most)))
    whole = [TEXT[one.start : one.end] for one in found if isinstance(one, Passage)]
    lost = found.count("too_long_sentence")
    assert all(len(text) <= most for text in whole)
    if not lost:
        assert " ".join(whole) == TEXT
    else:
        assert most < len(" Three was never seen.")


def test_sentence_ends_are_counted_from_the_start_of_a_passage() -> None:
    [found] = passages(f"\n\n  {TEXT}\n", "en", Limits(1, 100))
    assert isinstance(found, Passage)
    assert found.start == 4 and found.sentences == (12, 26, 48)


def test_chinese_ends_are_characters() -> None:
    assert sentences("甲在。乙也在！", "zh") == [3, 7]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("* a thing that is in a list.", "list_item"),
        ("a\ufffcb is a formula.", "formula"),
        ("Hm.", "too_short"),
        ("It was so.<ref>Somewhere.", "markup"),
        ("| align=right | It was so.", "markup"),
        ("This line has no end", "no_sentence"),
    ],
)
def test_what_is_no_paragraph_is_named(line: str, reason: str) -> None:
    assert list(passages(line, "en", Limits(10, 100))) == [reason]


def test_limits_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(UserError, match="leave no texts"):
        list(passages(TEXT, "en", Limits(100, 10)))
