"""From the page's controls to a decoding and back, to what is sent, and to words."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.generation.engine import Capability, Decoding
from src.serving.web.client import Model
from src.serving.web.presets import load_presets
from src.serving.web.settings import (
    CONTROLS,
    control_values,
    fitted,
    from_controls,
    idle,
    is_seed,
    lacking,
    mode_line,
    parameters,
    seed_of,
    stop_texts,
    unoffered,
    warnings,
)
from src.serving.web.texts import texts_of

LLAMACPP = Model("m", frozenset({"top_k", "min_p", "repetition_penalty"}), "llamacpp")
ALL = Model("m", frozenset(capability.name.lower() for capability in Capability), "transformers")

SAMPLED = st.builds(
    Decoding,
    max_new_tokens=st.integers(1, 4096),
    do_sample=st.just(True),
    temperature=st.floats(0.05, 2),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 200),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(1, 2),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    seed=st.none() | st.integers(-(10**18) + 1, 10**18 - 1),
    stop=st.lists(st.text(min_size=1), max_size=4),
)
BEAMS = st.builds(Decoding, max_new_tokens=st.integers(1, 99), num_beams=st.integers(2, 8))


@given(SAMPLED | BEAMS)
def test_controls_stand_for_a_decoding_and_give_it_back(decoding: Decoding) -> None:
    values = control_values(decoding)
    assert tuple(values) == CONTROLS and from_controls(values) == decoding


def test_what_is_idle_is_left_out_of_the_decoding() -> None:
    values = {**control_values(Decoding(do_sample=True, temperature=0.7)), "num_beams": 3, "presence_penalty": 1.0}
    decoding = from_controls(values)
    assert decoding == Decoding(num_beams=3)
    assert {"temperature", "top_p", "presence_penalty"} <= idle(decoding)
    assert idle(Decoding()) == {"top_p", "top_k", "min_p", "seed"} and not idle(Decoding(do_sample=True))


def test_numbers_that_are_being_typed_are_no_error() -> None:
    values = control_values(Decoding(do_sample=True, temperature=0.7))
    assert from_controls({**values, "temperature": 9}).temperature == 2
    assert not from_controls({**values, "temperature": None}).do_sample
    assert from_controls({**values, "max_tokens": None}).max_new_tokens == 1


@pytest.mark.parametrize("preset", load_presets(), ids=lambda preset: preset.name)
def test_presets_pass_through_the_controls_unchanged(preset) -> None:
    assert from_controls(control_values(preset.decoding)) == preset.decoding


def test_stop_texts_may_have_line_breaks_and_backslashes() -> None:
    assert stop_texts("###\n\n\\n\\n\na\\\\nb") == ["###", "\n\n", "a\\nb"] and stop_texts(None) == []


@pytest.mark.parametrize(("text", "seed"), [("", None), (" 7 ", 7), ("-3", -3), (None, None)])
def test_a_seed_is_a_whole_number_or_nothing(text: str | None, seed: int | None) -> None:
    assert is_seed(text) and seed_of(text) == seed


@pytest.mark.parametrize("text", ["1.5", "x", "1e3", "9" * 30])
def test_other_seeds_are_not_taken(text: str) -> None:
    assert not is_seed(text) and seed_of(text) is None


def test_plain_endpoints_are_sent_openai_parameters_only() -> None:
    sent = parameters(Decoding(do_sample=True, temperature=0.7, top_p=0.9), extended=False)
    assert sent == {"max_tokens": 256, "temperature": 0.7, "top_p": 0.9}
    assert parameters(Decoding(), extended=False) == {"max_tokens": 256, "temperature": 0.0}


def test_our_server_is_sent_all_so_that_its_defaults_stay_out() -> None:
    sent = parameters(Decoding(do_sample=True), extended=True)
    assert (sent["top_k"], sent["min_p"], sent["num_beams"], sent["stop"]) == (0, 0.0, 1, [])
    assert "top_k" not in parameters(Decoding(num_beams=2), extended=True)  # beams draw nothing


def test_presets_are_fitted_to_the_engine_and_say_what_is_left_out() -> None:
    precise = Decoding(num_beams=2)
    assert lacking(precise, LLAMACPP) == ["num_beams"] and fitted(precise, LLAMACPP) == Decoding()
    assert fitted(precise, ALL) == fitted(precise, Model("elsewhere")) == precise


def test_controls_that_an_engine_has_no_use_for_are_known() -> None:
    assert unoffered(Decoding(), LLAMACPP) == {"num_beams", "presence_penalty", "frequency_penalty"}
    assert unoffered(Decoding(), ALL) == unoffered(Decoding(), None) == set()
    assert "num_beams" not in unoffered(Decoding(num_beams=2), LLAMACPP)  # it can be set back


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_mode_is_said_in_one_line(language: str) -> None:
    texts = texts_of(language)
    lines = {
        mode_line(decoding, texts)
        for decoding in (Decoding(), Decoding(num_beams=4), Decoding(do_sample=True, top_k=40, top_p=0.9, min_p=0.05))
    }
    assert len(lines) == 3 and not any("\n" in line for line in lines)
    assert any("4" in line for line in lines) and any("40" in line and "0.9" in line for line in lines)


def test_what_would_be_refused_is_said_before() -> None:
    texts = texts_of("en")
    assert not warnings(Decoding(num_beams=2), ALL, texts)
    assert "llamacpp" in warnings(Decoding(num_beams=2), LLAMACPP, texts)[0]
    assert "Complete" in warnings(Decoding(), replace(ALL, chat=False), texts)[0]
    assert "5" in warnings(Decoding(stop=list("abcde")), ALL, texts)[0]
