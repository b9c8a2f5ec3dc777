"""Chunks: places kept, nothing lost, the budget held, sentences whole."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.extraction.chunks import MIN_CHUNK_TOKENS, chunks, language_of, sentences

TEXTS = st.text(st.sampled_from('ab é中文。，.!? \n"”-1😀'), max_size=300)


def letters(texts: Sequence[str]) -> list[int]:
    """A tokenizer of one token a character."""
    return [len(text) for text in texts]


@given(TEXTS)
def test_sentences_are_the_text_without_gaps(text: str) -> None:
    assert "".join(text[span.start : span.end] for span in sentences(text)) == text


@given(TEXTS, st.integers(MIN_CHUNK_TOKENS, 60), st.integers(0, 3))
def test_chunks_keep_their_places_hold_the_budget_and_lose_nothing(text: str, budget: int, overlap: int) -> None:
    found = chunks(text, budget, letters, overlap)
    covered = set()
    for number, chunk in enumerate(found):
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip()
        assert chunk.number == number and 0 < len(chunk.text) <= chunk.tokens <= budget
        covered |= set(range(chunk.start, chunk.end))
    assert all(place in covered or letter.isspace() for place, letter in enumerate(text))
    assert all(a.end < b.end for a, b in pairwise(found))


def test_a_text_that_fits_is_one_chunk() -> None:
    (chunk,) = chunks("One sentence. Two sentences.\n", 100, letters)
    assert (chunk.start, chunk.end, chunk.text) == (0, 28, "One sentence. Two sentences.")


def test_neighbours_share_whole_sentences() -> None:
    text = "Aaaa aaaa. Bbbb bbbb. Cccc cccc. Dddd dddd."
    assert [chunk.text for chunk in chunks(text, 24, letters, 0)] == ["Aaaa aaaa. Bbbb bbbb.", "Cccc cccc. Dddd dddd."]
    assert [chunk.text for chunk in chunks(text, 24, letters, 1)] == [
        "Aaaa aaaa. Bbbb bbbb.",
        "Bbbb bbbb. Cccc cccc.",
        "Cccc cccc. Dddd dddd.",
    ]


def test_an_overlap_that_leaves_no_room_is_left_out() -> None:
    text = "A short one. This sentence has thirty letters! Short."
    assert [chunk.text for chunk in chunks(text, 36, letters, 2)] == [
        "A short one.",
        "This sentence has thirty letters!",
        "Short.",
    ]


def test_a_long_sentence_is_cut_after_a_comma_else_at_a_blank_else_anywhere() -> None:
    assert [c.text for c in chunks("aaaaaaaa aaaa, bbbb bbbb bb", 20, letters, 0)] == ["aaaaaaaa aaaa,", "bbbb bbbb bb"]
    assert [c.text for c in chunks("aaaaaaaaaa bbbbbbbbbb", 18, letters, 0)] == ["aaaaaaaaaa", "bbbbbbbbbb"]
    assert [c.text for c in chunks("中" * 40, 16, letters, 0)] == ["中" * 16, "中" * 16, "中" * 8]


def test_rows_of_a_table_are_kept_whole() -> None:
    table = "\n".join(f"name: n{n} | born: 19{n:02}" for n in range(6))
    assert [chunk.text for chunk in chunks(table, 50, letters, 0)] == [
        "name: n0 | born: 1900\nname: n1 | born: 1901",
        "name: n2 | born: 1902\nname: n3 | born: 1903",
        "name: n4 | born: 1904\nname: n5 | born: 1905",
    ]


def test_the_language_is_that_of_the_letters() -> None:
    assert language_of("他住在 New York。") == "zh" and language_of("He said 你好 to me and others.") == "en"
    assert language_of("") == "en"


def test_impossible_budgets_are_refused() -> None:
    with pytest.raises(UserError, match="max_chunk_tokens is 15"):
        chunks("a", 15, letters)
    with pytest.raises(UserError, match="overlap is -1"):
        chunks("a", 50, letters, -1)
