"""Streaming never shows half a character or part of a stop text, and loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from src.generation.text_stream import TextStream


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir):
    return AutoTokenizer.from_pretrained(smollm2_dir)


def stream(tokenizer, text, stop=()):
    flow = TextStream(tokenizer, stop)
    deltas = [flow.push(number) for number in tokenizer.encode(text)]
    return [*deltas, flow.finish()], flow


TEXTS = ["馬力出生於青州市。", "👩‍👩‍👧 🙂 naïve", " two  spaces\n\n\ttab ", "龘靐齉"]


@pytest.mark.parametrize("text", TEXTS)
def test_deltas_are_whole_characters_and_join_to_the_text(tokenizer, text):
    deltas, _ = stream(tokenizer, text)
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize("stop", ["\n###", "州市", "🙂"])
def test_a_stop_text_ends_the_stream_and_no_part_of_it_is_shown(tokenizer, stop):
    deltas, flow = stream(tokenizer, f"before {stop[:-1]} x{stop} after", [stop])
    assert flow.stopped and "".join(deltas) == f"before {stop[:-1]} x"
    shown = ""
    for delta in deltas:
        shown += delta
        assert f"before {stop[:-1]} x".startswith(shown)


def test_the_beginning_of_a_stop_text_is_shown_when_the_answer_ends_there(tokenizer):
    deltas, flow = stream(tokenizer, "a\n##", ["\n###"])
    assert not flow.stopped and "".join(deltas) == "a\n##"


def test_half_a_character_at_the_very_end_is_dropped(tokenizer):
    flow = TextStream(tokenizer)
    ids = tokenizer.encode("a龘")[:-1]
    shown = "".join(flow.push(number) for number in ids)
    assert shown == "a" and flow.finish() == "" and tokenizer.decode(ids) != "a"


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\ufffd")  # the mark itself is taken for half a character


@given(st.text(CHARACTERS, max_size=40), st.lists(st.text(CHARACTERS, min_size=1, max_size=3), max_size=2))
def test_any_text_streams_to_what_stands_before_its_first_stop_text(tokenizer, text, stops):
    deltas, _ = stream(tokenizer, text, stops)
    text = tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)  # it lacks some bytes of rare characters
    text = text.rstrip("\ufffd")
    ends = [position for position in map(text.find, stops) if position >= 0]
    assert "".join(deltas) == text[: min(ends, default=None)]
