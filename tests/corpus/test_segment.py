"""Segments: joined they are the document's tokens, none is too long, and no sentence is cut that fits."""

import gzip
import json
import time

import numpy as np
import pytest
import sentencepiece
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.segment import BATCH_CHARACTERS, SegmentedDocument, segment, segment_ends, tokenize
from src.corpus.sentences import sentence_ends
from src.models.tokenizer import open_encoder

KINDS = ["byte_level", "sentencepiece", "byte_level_reference", "sentencepiece_reference"]

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
        "\ufffd",
        "\t",
        "etc. and ",
        " ",
        "</s>",
        "<|endoftext|>",
        "月" * 30,
    ]
)
TEXT = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=80)
LONG = st.sampled_from([" " * 700, "\n" * 700, "." * 600, "。" * 250, "月" * 200, "word " * 90, "etc. and " * 40])
LONG_TEXT = st.lists(PIECES | LONG | st.text(max_size=9), max_size=30).map("".join)


@pytest.fixture(scope="module")
def encoders(byte_level_folder, tmp_path_factory):
    """Both kinds of vocabulary, each with the fast engine and with its reference."""
    llama_like = tmp_path_factory.mktemp("llama_like") / "tokenizer.model"
    with llama_like.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["The fox sat. Why? line\n", "明月光。我们去公园玩！"] * 20),
            model_writer=stream,
            model_type="bpe",
            vocab_size=330,
            byte_fallback=True,
            required_chars="<0x123456789ABCDEF>",
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    files = {"byte_level": byte_level_folder, "sentencepiece": llama_like}
    fast = {kind: open_encoder(file, engine="fastokens") for kind, file in files.items()}
    slow = {f"{kind}_reference": open_encoder(file, engine="reference") for kind, file in files.items()}
    return fast | slow


def run(encoder, texts, language, max_length, bos=None, eos=None) -> list[SegmentedDocument]:
    documents = (Document(text, str(i)) for i, text in enumerate(texts))
    return list(segment(tokenize(documents, encoder), encoder, language, max_length, bos, eos))


def allowed_borders(raw, ends, language):
    """Numbers of tokens at whose end a sentence ends, or ended with only blanks since."""
    borders = set()
    for sentence in sentence_ends(raw, language).tolist():
        end = next(end for end in ends.tolist() if end >= sentence)
        if not raw[sentence:end].strip():
            borders.add(max(n for n, other in enumerate(ends.tolist(), start=1) if other == end))
    return borders


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT, language=st.sampled_from(["zh", "en", "code"]), max_length=st.integers(2, 40), marks=st.booleans())
@settings(max_examples=150, deadline=None)
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


def eager_segment_ends(raw, token_ends, language, max_length, before, after):
    """The same cuts, from a list of all borders of the document."""
    borders = allowed_borders(raw, token_ends, language)
    whole = {0} | {n for n, end in enumerate(token_ends.tolist(), start=1) if raw[end : end + 1] < b"\x80"}
    whole |= {n for n, end in enumerate(token_ends.tolist(), start=1) if raw[end : end + 1] >= b"\xc0"}
    total, start, ends = before + len(token_ends) + after, 0, []
    while total - start > max_length:
        fitting = [
            border + before for border in borders - {len(token_ends)} if start < border + before <= start + max_length
        ]
        limit = min(start + max_length, total - after - 1)
        kept = [end for end in range(max(start, limit - 8) + 1, limit + 1) if end - before in whole or end <= before]
        start = max(fitting or kept, default=limit)
        ends.append(start)
    return [*ends, total] if total else []


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@given(
    text=LONG_TEXT, language=st.sampled_from(["zh", "en", "code"]), max_length=st.integers(8, 400), marks=st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_borders_looked_for_near_the_cuts_give_the_cuts_of_all_borders(
    encoders, kind, text, language, max_length, marks
):
    (ids,) = encoders[kind].encode_batch([text])
    token_ends = encoders[kind].token_ends(ids, text)
    case = (text.encode(), token_ends, language, max_length, int(marks), int(marks))
    assert segment_ends(*case).tolist() == eager_segment_ends(*case)


@given(
    text=LONG_TEXT,
    places=st.lists(st.floats(0, 1), max_size=120),
    language=st.sampled_from(["zh", "en", "code"]),
    max_length=st.integers(4, 30),
    eos=st.integers(0, 1),
)
@settings(max_examples=80, deadline=None)
def test_tokens_that_share_an_end_are_cut_by_the_same_rules(text, places, language, max_length, eos):
    raw = text.encode()
    token_ends = np.array(sorted(round(place * len(raw)) for place in [*places, 1.0, 1.0]))
    case = (raw, token_ends, language, max_length, 1, eos)
    assert segment_ends(*case).tolist() == eager_segment_ends(*case)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(30, 60))
def test_segments_are_as_few_as_whole_sentences_allow(lengths, max_length):
    raw = b"".join(b"x" * (length - 1) + b"\n" for length in lengths)
    ends = segment_ends(raw, np.arange(1, len(raw) + 1), "code", max_length)
    fewest, room = 1, max_length
    for length in lengths:
        if length > room:
            fewest, room = fewest + 1, max_length
        room -= length
    assert len(ends) == fewest


@given(texts=st.lists(TEXT, max_size=12), marks=st.booleans())
@settings(max_examples=50, deadline=None)
def test_documents_come_out_whole_and_in_order_whatever_shares_their_batch(encoders, texts, marks):
    encoder = encoders["sentencepiece"]
    bos, eos = (1, 2) if marks else (None, None)
    together = run(encoder, texts, "en", 16, bos, eos)
    assert [(part.document.text, part.raw) for part in together] == [(text, text.encode()) for text in texts]
    for text, document in zip(texts, together, strict=True):
        (alone,) = run(encoder, [text], "en", 16, bos, eos)
        assert document.ids.tolist() == alone.ids.tolist() and document.ends.tolist() == alone.ends.tolist()


def test_batches_are_bounded_and_nothing_waits_for_the_end_of_the_input(encoders):
    texts = ["The fox. " * 1000] * 100
    documents = iter([Document(text, str(i)) for i, text in enumerate(texts)])
    batches = tokenize(documents, encoders["sentencepiece"])
    first = next(batches)
    assert 1 < len(first.documents) < 20
    assert sum(len(document.text) for document in first.documents) < BATCH_CHARACTERS + len(texts[0])
    assert len(first.documents) + len(list(documents)) == len(texts)


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


@pytest.mark.parametrize("kind", KINDS)
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
