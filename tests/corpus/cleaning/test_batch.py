"""A batch is a way to compute, never a reason for a verdict."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.batch import Spans, TextBatch, word_hashes

ALPHABET = st.sampled_from(list("aB7 \n\n\t.，中文\U00020000-"))
TEXTS = st.lists(st.text(ALPHABET, max_size=40), min_size=1, max_size=6)


def pieces(batch: TextBatch, spans: Spans) -> list[list[str]]:
    """The pieces of each document as strings."""
    found: list[list[str]] = [[] for _ in batch.texts]
    for start, end, document in zip(spans.starts, spans.ends, spans.documents, strict=True):
        found[document].append(batch.joined[start:end])
    return found


@given(TEXTS)
def test_words_are_what_split_gives(texts):
    batch = TextBatch(texts, "en")
    assert pieces(batch, batch.words) == [text.split() for text in texts]
    assert batch.characters.tolist() == [len("".join(text.split())) for text in texts]


@given(TEXTS)
def test_lines_are_the_filled_ones_without_blanks_around(texts):
    batch = TextBatch(texts, "zh")
    assert pieces(batch, batch.lines) == [[line.strip() for line in t.split("\n") if line.strip()] for t in texts]


@given(TEXTS)
def test_paragraphs_hold_all_lines_and_blank_lines_part_them(texts):
    batch = TextBatch(texts, "en")
    for text, found in zip(texts, pieces(batch, batch.paragraphs), strict=True):
        lines = "\n".join(line.strip() for line in text.split("\n"))
        expected = [part.strip("\n") for part in lines.split("\n\n")]
        assert ["\n".join(line.strip() for line in part.split("\n")) for part in found] == [p for p in expected if p]


def test_chinese_tokens_are_characters_and_runs_of_other_letters():
    batch = TextBatch(["用Linux 6.1，很好！", "", "一二"], "zh")
    assert pieces(batch, batch.tokens) == [["用", "Linux", "6", "1", "很", "好"], [], ["一", "二"]]


@given(TEXTS)
def test_equal_words_have_equal_hashes_wherever_they_stand(texts):
    batch = TextBatch(texts, "en")
    hashes = batch.hashes(batch.words)
    words = [word for text in texts for word in text.split()]
    if words:
        assert np.array_equal(hashes, word_hashes(words))
    by_word = dict(zip((word.lower() for word in words), hashes.tolist(), strict=True))
    assert [by_word[word.lower()] for word in words] == hashes.tolist()
    assert len(set(by_word.values())) == len(by_word)


def test_a_text_longer_than_the_limit_is_looked_at_from_its_beginning():
    batch = TextBatch(["abc def", "gh"], "en", limit=5)
    assert batch.texts == ["abc d", "gh"]
    assert batch.whole == ["abc def", "gh"]
