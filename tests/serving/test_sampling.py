"""From the parameters of a request to a decoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.generation.engine import Decoding
from src.generation.engines.openai_engine import OpenAIEngine
from src.serving.errors import ApiError
from src.serving.sampling import check_preset, decoding_of, schema_of, token_limit
from src.serving.schemas import JsonSchema, ResponseFormat, Sampling
from src.serving.settings import Settings

PLAIN = Settings()


def test_without_a_word_the_defaults_are_those_of_the_openai_api() -> None:
    assert decoding_of(Sampling(), PLAIN, 16) == Decoding(16, do_sample=True, temperature=1.0, top_p=1.0)


@pytest.mark.parametrize("body", [Sampling(temperature=0), Sampling(temperature=1e-7), Sampling(top_p=0)])
def test_temperature_or_top_p_of_0_is_the_likeliest_token(body: Sampling) -> None:
    assert decoding_of(body, PLAIN, 16) == Decoding(16)


def test_what_changes_nothing_beside_temperature_0_may_be_given() -> None:
    body = Sampling(temperature=0, top_p=0.9, top_k=5, min_p=0.1, seed=3)
    assert decoding_of(body, PLAIN, 16) == Decoding(16)


def test_a_preset_fills_what_the_request_leaves_open_and_nothing_else() -> None:
    preset = Settings(decoding=Decoding(50, do_sample=True, temperature=0.7, top_k=40, repetition_penalty=1.1))
    found = decoding_of(Sampling(temperature=0.3), preset, 16)
    assert (found.temperature, found.top_k, found.repetition_penalty) == (0.3, 40, 1.1)
    assert decoding_of(Sampling(top_k=-1), preset, 16).top_k == 0


def test_a_temperature_turns_the_beams_of_a_preset_off() -> None:
    preset = Settings(decoding=Decoding(50, num_beams=3))
    assert decoding_of(Sampling(), preset, 16).num_beams == 3
    assert decoding_of(Sampling(temperature=0.5), preset, 16) == Decoding(16, do_sample=True, temperature=0.5)


@pytest.mark.parametrize(
    "body", [Sampling(num_beams=2, temperature=0.7), Sampling(num_beams=2, top_p=0.9), Sampling(num_beams=2, top_k=5)]
)
def test_beams_with_settings_that_draw_are_an_error(body: Sampling) -> None:
    with pytest.raises(ApiError) as refused:
        decoding_of(body, PLAIN, 16)
    assert refused.value.code == "unsupported_parameter"


def test_beams_may_come_with_neutral_values() -> None:
    body = Sampling(num_beams=4, temperature=1, top_p=1, top_k=-1)
    assert decoding_of(body, PLAIN, 16) == Decoding(16, num_beams=4)


@pytest.mark.parametrize("stop", ["", ["a", ""], ["a"] * 5, "x" * 501])
def test_stop_texts_that_are_empty_too_many_or_too_long_are_refused(stop: str | list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        decoding_of(Sampling(stop=stop), PLAIN, 16)
    assert refused.value.param == "stop"


@pytest.mark.parametrize("key", ["x", "-1", "1.5", "49152", "٣"])
def test_a_bias_on_something_that_is_no_token_is_refused(key: str) -> None:
    with pytest.raises(ApiError) as refused:
        decoding_of(Sampling(logit_bias={key: 1.0}), PLAIN, 16, vocabulary=49152)
    assert refused.value.param == "logit_bias"


def test_biases_go_to_token_ids() -> None:
    assert decoding_of(Sampling(logit_bias={"7": -100.0}), PLAIN, 16, vocabulary=8).logit_bias == {7: -100.0}


def test_a_preset_that_the_engine_can_not_follow_is_refused_at_the_start() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "any")
    with pytest.raises(UserError, match=r"num_beams.*openai"):
        check_preset(Settings(decoding=Decoding(num_beams=2)), [engine])
    check_preset(Settings(decoding=Decoding(do_sample=True, top_p=0.9)), [engine])
    check_preset(PLAIN, [engine])


def test_the_token_limit_is_the_requests_then_the_presets_then_the_servers_then_the_contexts() -> None:
    assert token_limit(5, PLAIN, 2048, 16, "max_tokens") == 5
    assert token_limit(None, Settings(decoding=Decoding(50)), 2048, 16, "max_tokens") == 50
    assert token_limit(None, PLAIN, 2048, 16, "max_tokens") == 16
    assert token_limit(None, PLAIN, 2048, 0, "max_tokens") == 2048
    assert token_limit(None, Settings(max_tokens_limit=10), 2048, 16, "max_tokens") == 10


def test_asking_for_more_tokens_than_the_server_writes_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ApiError, match=r"11.*10"):
        token_limit(11, Settings(max_tokens_limit=10), 2048, 16, "max_tokens")


def test_a_response_format_is_a_schema_or_an_error() -> None:
    assert schema_of(None) is None
    assert schema_of(ResponseFormat(type="text")) is None
    assert schema_of(ResponseFormat(type="json_object")) == {"type": "object"}
    with pytest.raises(ApiError) as refused:
        schema_of(ResponseFormat(type="json_schema", json_schema=JsonSchema(name="x")))
    assert refused.value.param == "response_format.json_schema.schema"


@given(
    st.builds(
        Sampling,
        temperature=st.none() | st.floats(0, 2),
        top_p=st.none() | st.floats(0, 1),
        top_k=st.none() | st.integers(-1, 100),
        min_p=st.none() | st.floats(0, 1),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        num_beams=st.none() | st.integers(1, 16),
        repetition_penalty=st.none() | st.floats(0.1, 10),
        presence_penalty=st.none() | st.floats(-2, 2),
    )
)
def test_every_body_that_the_schema_lets_through_is_a_decoding_or_a_400(body: Sampling) -> None:
    try:
        assert decoding_of(body, PLAIN, 16).max_new_tokens == 16
    except ApiError as error:
        assert error.status == 400 and error.param is not None
