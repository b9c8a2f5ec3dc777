"""Segments: joined they are the document's tokens, none is too long, and no sentence is cut that fits."""

import gzip
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.readers import Document
from src.corpus.segment import SegmentedDocument, greedy_ends, segment, tokenize
from src.corpus.sentences import sentence_ends

PIECES = st.sampled_from(
    [
        "The fox. ",
        "Why? ",
        "line\n",
        "    indented\n",
        "\n\n",
        "\r\n",
        "明月光。",
        "我们去公园玩！",
        "very " * 9,
        "😀👩‍👩‍👧",
        "e\u0301",
        "\x00",
        "\u2028",
        " ",
        "</s>",
        "<|endoftext|>",
        "月" * 30,
    ]
)
TEXT = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=80)


def run(encoder, texts, language, max_length, bos=None, eos=None) -> list[SegmentedDocument]:
    documents = (Document(text, str(i)) for i, text in enumerate(texts))
    return list(segment(tokenize(documents, encoder), encoder, language, max_length, bos, eos))


def allowed_borders(raw, ends, language):
    """Numbers of tokens at whose end a sentence ends, or ended with only blanks since."""
    borders = set()
    for sentence in sentence_ends(raw, language).tolist():
        count, end = next((n, end) for n, end in enumerate(ends.tolist(), start=1) if end >= sentence)
        if not raw[sentence:end].strip():
            borders.add(count)
    return borders


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@given(text=TEXT, language=st.sampled_from(["zh", "en", "code"]), max_length=st.integers(2, 40), marks=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_three_promises_hold_on_any_text(encoders, kind, text, language, max_length, marks):
    encoder = encoders[kind]
    (ids,) = encoder.encode_batch([text])
    bos, eos = (7, 8) if marks else (None, None)
    (document,) = run(encoder, [text], language, max_length, bos, eos)
    segments = [part.tolist() for part in document.segments()]
    if not marks and not text:
        assert segments in ([], [[]])
        return

    joined = [token for part in segments for token in part]
    assert joined == ([7] if marks else []) + ids.tolist() + ([8] if marks else [])
    assert all(0 < len(part) <= max_length for part in segments)

    borders = allowed_borders(text.encode(), encoder.token_ends(ids, text), language)
    shift = int(marks)
    ends = sorted({border + shift for border in borders} - {len(ids) + shift} | {len(joined)})
    starts = [0, *ends[:-1]]
    for cut in document.ends[:-1].tolist():
        if cut not in ends:  # inside a sentence: it must be one that does not fit
            sentence = next((a, b) for a, b in zip(starts, ends, strict=True) if a < cut < b)
            assert sentence[1] - sentence[0] > max_length


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(30, 60))
def test_segments_are_as_few_as_whole_sentences_allow(lengths, max_length):
    borders = np.cumsum(lengths)
    ends = greedy_ends(borders, max_length, np.ones(int(borders[-1]) + 1, dtype=bool))
    fewest, room = 1, max_length
    for length in lengths:
        if length > room:
            fewest, room = fewest + 1, max_length
        room -= length
    assert len(ends) == fewest


def test_bos_is_only_on_the_first_segment_and_eos_only_on_the_last(encoders):
    (document,) = run(encoders["byte_level"], ["The fox. " * 40], "en", 32, bos=1, eos=0)
    segments = document.segments()
    assert len(segments) > 3
    assert segments[0][0] == 1 and segments[-1][-1] == 0
    middle = np.concatenate(segments)[1:-1]
    assert not np.isin(middle, [0, 1]).any()


def test_an_over_long_sentence_is_cut_at_the_token_that_fits_and_eos_keeps_company(encoders):
    encoder = encoders["byte_level"]
    text = "x" * 33
    (ids,) = encoder.encode_batch([text])
    assert len(ids) == 33
    (document,) = run(encoder, [text], "en", 11, eos=0)
    assert [len(part) for part in document.segments()] == [11, 11, 10, 2]


def test_an_over_long_sentence_is_not_cut_inside_a_character(encoders):
    (document,) = run(encoders["byte_level"], ["😀" * 50], "zh", 10)
    assert {len(part) for part in document.segments()} == {8}


def test_indentation_that_shares_a_token_with_the_line_end_still_ends_the_line(encoders):
    text = "def main():\n        print(line)\n" * 30
    encoder = encoders["byte_level"]
    (document,) = run(encoder, [text], "code", 40)
    (ids,) = encoder.encode_batch([text])
    ends = encoder.token_ends(ids, text)
    for cut in document.ends[:-1]:
        position = int(ends[cut - 1])
        assert text[:position].rstrip(" ").endswith("\n")


def test_an_empty_document_has_no_segment_or_only_its_marks(encoders):
    (bare,) = run(encoders["sentencepiece"], [""], "en", 8)
    assert len(bare.ends) == 0
    (marked,) = run(encoders["sentencepiece"], [""], "en", 8, bos=1, eos=2)
    assert marked.ids.tolist() == [1, 2] and marked.ends.tolist() == [2]


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_megabyte_on_one_line_is_segmented_in_seconds(encoders, kind):
    texts = ["月" * 340_000, "The fox sat. " * 80_000]
    start = time.process_time()
    for document in run(encoders[kind], texts, "zh", 1024, eos=0):
        assert max(len(part) for part in document.segments()) <= 1024
    assert time.process_time() - start < 15


@pytest.mark.parametrize("language", ["zh", "en", "code"])
def test_real_documents_keep_the_promises(encoders, corpora, language):
    with gzip.open(corpora / f"{language}.jsonl.gz", "rt") as lines:
        texts = [json.loads(next(lines))["text"] for _ in range(40)]
    encoder = encoders["sentencepiece"]
    for text, ids, document in zip(texts, encoder.encode_batch(texts), run(encoder, texts, language, 256), strict=True):
        assert np.array_equal(np.concatenate(document.segments()), ids)
        assert max(len(part) for part in document.segments()) <= 256
        assert encoder.token_ends(ids, text)[-1] == len(text.encode())
