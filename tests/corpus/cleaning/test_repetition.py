"""Repetition is what counting by hand finds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.batch import TextBatch
from src.corpus.cleaning.repetition import Repetition, duplicate_ngram_shares, duplicate_shares, top_ngram_shares

TEXTS = st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), max_size=40).map(" ".join), min_size=1, max_size=5)


def slow_duplicates(words: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            covered.update(range(start, start + n))
        seen.add(gram)
    return sum(len(words[index]) for index in covered) / max(sum(map(len, words)), 1)


def slow_top(words: list[str], n: int) -> float:
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    sizes = [grams.count(gram) * len("".join(gram)) for gram in set(grams) if grams.count(gram) > 1]
    return min(max(sizes, default=0) / max(len("".join(words)), 1), 1)


@given(TEXTS)
def test_shares_of_duplicate_ngrams_are_those_counted_one_by_one(texts):
    for n in (5, 7, 10):
        repetition = Repetition(TextBatch(texts, "en"))
        ((_, shares),) = duplicate_ngram_shares(repetition, {n: 0.0}, np.ones(len(texts), bool))
        assert np.allclose(shares, [slow_duplicates(text.split(), n) for text in texts])


@given(TEXTS)
def test_shares_of_top_ngrams_are_those_counted_one_by_one(texts):
    repetition = Repetition(TextBatch(texts, "en"))
    for n, shares in top_ngram_shares(repetition, {2: 0.0, 3: 0.0, 4: 0.0}, np.ones(len(texts), bool)):
        assert np.allclose(shares, [slow_top(text.split(), n) for text in texts])


@given(TEXTS, st.floats(0, 0.5))
def test_what_is_left_out_for_speed_changes_no_decision(texts, limit):
    repetition, asked = Repetition(TextBatch(texts, "en")), np.ones(len(texts), bool)
    limits = {5: limit + 0.2, 6: limit, 10: limit + 0.1}
    for n, shares in duplicate_ngram_shares(repetition, limits, asked):
        assert [share > limits[n] for share in shares] == [slow_duplicates(t.split(), n) > limits[n] for t in texts]
    limits = {2: limit, 3: limit + 0.1, 4: limit}
    for n, shares in top_ngram_shares(repetition, limits, asked):
        assert [share > limits[n] for share in shares] == [slow_top(t.split(), n) > limits[n] for t in texts]


@given(TEXTS)
def test_neighbours_in_a_batch_change_nothing(texts):
    together = Repetition(TextBatch(texts, "en"))
    asked = np.ones(len(texts), bool)
    ((_, shares),) = duplicate_ngram_shares(together, {5: 0.0}, asked)
    for text, share in zip(texts, shares, strict=True):
        ((_, alone),) = duplicate_ngram_shares(Repetition(TextBatch([text], "en")), {5: 0.0}, asked[:1])
        assert alone[0] == share


@given(st.lists(st.lists(st.sampled_from(["ab", "cde", "f"]), max_size=12), min_size=1, max_size=4))
def test_duplicate_lines_are_those_counted_one_by_one(documents):
    batch = TextBatch(["\n".join(lines) for lines in documents], "en")
    number, characters = duplicate_shares(batch, batch.lines)
    for lines, share, character_share in zip(documents, number, characters, strict=True):
        again = [line for index, line in enumerate(lines) if line in lines[:index]]
        assert share == len(again) / max(len(lines), 1)
        assert character_share == len("".join(again)) / max(len("".join(lines)), 1)
