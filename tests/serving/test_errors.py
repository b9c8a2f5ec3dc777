"""Errors in the shape of the OpenAI API."""

import pytest

from src.errors import UserError
from src.generation.engine import EngineDown, PromptTooLong, Unsupported
from src.serving.errors import ApiError, api_error, invalid_body
from src.serving.schemas import ChatRequest, CompletionRequest


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (Unsupported("no beams", "num_beams"), 400, "unsupported_parameter", "num_beams"),
        (Unsupported("no schemas", "json_schema"), 400, "unsupported_parameter", "response_format"),
        (PromptTooLong("9000 tokens of 8192"), 400, "context_length_exceeded", None),
        (UserError("odd"), 400, "invalid_value", None),
        (EngineDown("dead"), 503, "engine_down", None),
        (ApiError(429, "full", code="queue_full", retry_after_s=7), 429, "queue_full", None),
        (ZeroDivisionError("secret"), 500, "internal_error", None),
    ],
)
def test_every_exception_has_a_status_and_a_code(error: Exception, status: int, code: str, param: str | None) -> None:
    found = api_error(error, "id-7")
    assert (found.status, found.code, found.param) == (status, code, param)
    assert set(found.body()["error"]) == {"message", "type", "param", "code"}


def test_our_own_failure_tells_the_request_id_and_nothing_else() -> None:
    message = api_error(ZeroDivisionError("secret"), "id-7").message
    assert "id-7" in message and "secret" not in message


def test_an_engine_that_is_down_says_when_to_come_again() -> None:
    assert int(api_error(EngineDown("dead"), "x").headers()["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "xml"}}, "response_format.type"),
        ({"messages": [{"role": "user", "content": "hi"}], "logit_bias": {"7": 101}}, "logit_bias.7"),
    ],
)
def test_a_wrong_body_is_said_with_the_place(body: dict[str, object], param: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in raised.value.errors()]
    found = invalid_body(errors, body)
    assert found.status == 400
    assert found.param == param


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1] * 60_000 + ["x"]},
        {"prompt": [[1]] * 60_000 + [["x"]]},
        {"prompt": "a", "stop": [1] * 60_000},
        {"prompt": "a", "logit_bias": {str(number): "x" for number in range(60_000)}},
    ],
)
def test_a_long_list_of_mistakes_is_not_read_to_its_end(body: dict[str, object]) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as raised:
        CompletionRequest.model_validate(body)
    assert raised.value.error_count() <= 5
