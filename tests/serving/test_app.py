"""Every route over real HTTP, on a model of two random layers."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from src.errors import UserError
from src.generation.engine import Decoding
from src.generation.engines.openai_engine import OpenAIEngine
from src.serving.app import create_app
from src.serving.keys import load_keys, new_key
from src.serving.served import ServedModel
from src.serving.settings import Settings
from tests.serving.serving_live import in_thread

HI = [{"role": "user", "content": "hi"}]


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, timeout=60)


def chat(url: str, **body: Any) -> httpx.Response:
    return post(url, "/v1/chat/completions", **{"messages": HI, "max_tokens": 4, "temperature": 0, **body})


def events(text: str) -> list[Any]:
    """The data of server-sent events; the last must be [DONE]."""
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert parts[-1] == "[DONE]"
    return [json.loads(part) for part in parts[:-1]]


def error(response: httpx.Response) -> dict[str, Any]:
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return dict(found)


def schema_format(kind: str, deep: int = 0, wide: int = 1) -> dict[str, Any]:
    """A response format; not every one is a schema."""
    schema: dict[str, Any] = {"type": kind}
    for _ in range(deep):
        schema = {"properties": {"a": schema}}
    schema = {"properties": {str(number): schema for number in range(wide)}}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_models_are_listed_and_found_by_name(tiny: str) -> None:
    listed = httpx.get(tiny + "/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["tiny", "plain"]
    assert listed[0]["max_model_len"] == 512 and listed[0]["engine"] == "transformers"
    assert httpx.get(tiny + "/v1/models/tiny").json() == listed[0]
    assert httpx.get(tiny + "/v1/models/a/b").status_code == 404


def test_a_chat_has_an_answer_a_reason_and_counts(tiny: str) -> None:
    body = chat(tiny, ignore_eos=True).json()
    choice = body["choices"][0]
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
    assert choice["finish_reason"] == "length" and choice["message"]["role"] == "assistant"
    assert body["usage"]["completion_tokens"] == 4
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 4


def test_a_stream_joins_to_the_text_of_the_plain_answer(tiny: str) -> None:
    plain = chat(tiny, max_tokens=20, ignore_eos=True).json()
    response = chat(tiny, max_tokens=20, ignore_eos=True, stream=True, stream_options={"include_usage": True})
    parts = events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts[:-1])
    assert text == plain["choices"][0]["message"]["content"]
    assert parts[-2]["choices"][0]["finish_reason"] == "length"
    assert parts[-1]["choices"] == [] and parts[-1]["usage"] == plain["usage"]


def test_parts_of_a_message_are_one_text(tiny: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    assert chat(tiny, messages=parts).json()["choices"] == chat(tiny).json()["choices"]


def test_several_answers_and_seeds_differ_and_repeat(tiny: str) -> None:
    asked: dict[str, Any] = {"temperature": 1, "seed": 5, "n": 3, "max_tokens": 8, "ignore_eos": True}
    first, again = (
        [choice["message"]["content"] for choice in chat(tiny, **asked).json()["choices"]] for _ in range(2)
    )
    assert len(set(first)) == 3
    assert first == again


@pytest.mark.parametrize("prompt", ["hello there", ["hello there", "you"], [9000, 42], [[9000, 42], [7]]])
def test_every_form_of_prompt_is_continued(tiny: str, prompt: Any) -> None:
    body = post(tiny, "/v1/completions", prompt=prompt, max_tokens=3, temperature=0, ignore_eos=True).json()
    several = isinstance(prompt[0], list) or (isinstance(prompt, list) and isinstance(prompt[0], str))
    assert [choice["index"] for choice in body["choices"]] == list(range(2 if several else 1))
    assert body["usage"]["completion_tokens"] == 3 * len(body["choices"])


def test_echo_puts_the_prompt_before_the_answer_in_streams_too(tiny: str) -> None:
    asked = {"prompt": "hello there", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    bare = post(tiny, "/v1/completions", **asked).json()["choices"][0]["text"]
    echoed = post(tiny, "/v1/completions", **asked, echo=True).json()["choices"][0]["text"]
    parts = events(post(tiny, "/v1/completions", **asked, echo=True, stream=True).text)
    assert echoed == "hello there" + bare
    assert "".join(part["choices"][0]["text"] for part in parts) == echoed


def test_log_probabilities_are_there_for_each_token_and_as_many_as_asked(tiny: str) -> None:
    content = chat(tiny, logprobs=True, top_logprobs=2, ignore_eos=True).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in content)
    without = chat(tiny, logprobs=True, ignore_eos=True).json()["choices"][0]["logprobs"]["content"]
    assert all(token["top_logprobs"] == [] for token in without)
    old = post(tiny, "/v1/completions", prompt="a", max_tokens=3, temperature=0, logprobs=2, ignore_eos=True).json()
    found = old["choices"][0]["logprobs"]
    assert [len(found[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [3, 3, 3, 3]


def test_knowlms_body_gets_knowlms_three_keys(tiny: str) -> None:
    parameters = {"top_p": 1.0, "top_k": -1, "presence_penalty": 0, "frequency_penalty": 0, "temperature": 1.0}
    found = post(tiny, "/generate", instruction="Say it.", input="this", parameters={**parameters, "ignore_eos": True})
    assert set(found.json()) == {"generated_text", "num_output_tokens_cf", "error"}
    assert found.json()["num_output_tokens_cf"] == 16 and found.json()["error"] is None


def test_knowlms_stream_joins_to_the_text_and_counts_up(tiny: str) -> None:
    asked = {"instruction": "a", "input": "", "parameters": {"temperature": 0, "max_tokens": 9, "ignore_eos": True}}
    plain = post(tiny, "/generate", **asked).json()
    parts = events(post(tiny, "/generate", **asked, stream=True).text)
    assert "".join(part["generated_text"] for part in parts) == plain["generated_text"]
    assert parts[-1]["num_output_tokens_cf"] == 9


@pytest.mark.parametrize("missing", ["instruction", "input", "parameters"])
def test_a_missing_key_of_knowlms_body_is_a_text_under_error(tiny: str, missing: str) -> None:
    asked = {"instruction": "a", "input": "", "parameters": {}}
    del asked[missing]
    found = post(tiny, "/generate", **asked)
    assert found.status_code == 400 and missing in found.json()["error"]
    assert found.json()["generated_text"] == ""


def test_tokenize_and_detokenize_undo_each_other(tiny: str) -> None:
    text = "Wörter, 词 and <|im_end|> 🙂"
    tokens = post(tiny, "/tokenize", prompt=text).json()
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 512
    assert post(tiny, "/detokenize", tokens=tokens["tokens"]).json() == {"prompt": text}


def test_tokenize_counts_what_a_chat_is_charged(tiny: str) -> None:
    assert post(tiny, "/tokenize", messages=HI).json()["count"] == chat(tiny).json()["usage"]["prompt_tokens"]


def test_health_readiness_version_and_metrics_answer(tiny: str) -> None:
    assert httpx.get(tiny + "/health").json() == {"status": "ok", "models": {"tiny": "ready", "plain": "ready"}}
    assert httpx.get(tiny + "/ready").json() == {"ready": True}
    assert httpx.get(tiny + "/is_ready").json() is True
    assert httpx.get(tiny + "/version").json()["engines"]["tiny"] == "transformers"
    assert "knowlm_requests_total" in httpx.get(tiny + "/metrics").text


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "none"}, "model", "model_not_found"),
        ({"model": "plain"}, "model", "no_template"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0]", "unsupported_parameter"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "invalid_value"),
        ({"messages": HI * 513}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature", "unsupported_parameter"),
        ({"logit_bias": {"49152": 1}}, "logit_bias", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        ({"response_format": schema_format("foo")}, "response_format", "invalid_value"),
        ({"response_format": schema_format("string", deep=150)}, "response_format", "invalid_value"),
        ({"response_format": schema_format("string", wide=5000)}, "response_format", "invalid_value"),
        ({"guided_json": {"type": "object"}}, "guided_json", "unsupported_parameter"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_parameter(tiny: str, body: Any, param: str, code: str) -> None:
    response = chat(tiny, **body)
    found = error(response)
    assert response.status_code == (404 if code == "model_not_found" else 400), found
    assert (found["param"], found["code"]) == (param, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_completions_that_cannot_be_done_are_said_too(tiny: str, body: Any, param: str) -> None:
    response = post(tiny, "/v1/completions", **body)
    assert response.status_code == 400 and error(response)["param"] == param


def test_a_prompt_that_is_too_long_is_told_both_numbers(tiny: str) -> None:
    message = error(post(tiny, "/v1/completions", prompt=[5] * 600))["message"]
    assert "600" in message and "512" in message


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'"x"', b"nan", b'{"messages": NaN}', b'{"messages": "\\ud800"}', b"\xff\xfe", b"[" * 5000],
)
def test_a_body_that_is_no_json_object_is_a_400(tiny: str, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(tiny + "/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400 and error(response)["type"] == "invalid_request_error"


def test_paths_and_methods_that_are_not_there_are_told_in_the_same_shape(tiny: str) -> None:
    assert error(httpx.get(tiny + "/nowhere"))["code"] == "not_found"
    response = httpx.get(tiny + "/v1/chat/completions")
    assert response.status_code == 405 and error(response)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_unknown_keys_are_ignored_unless_the_server_is_strict(tiny: str, tiny_models: list[ServedModel]) -> None:
    assert chat(tiny, sparkle=1).status_code == 200
    with in_thread(create_app(tiny_models, Settings(strict=True))) as url:
        assert error(chat(url, sparkle=1))["param"] == "sparkle"
        assert chat(url, user="me", store=False).status_code == 200


def test_a_preset_of_the_server_holds_where_a_request_says_nothing(tiny_models: list[ServedModel]) -> None:
    with in_thread(create_app(tiny_models, Settings(decoding=Decoding(7)))) as url:
        found = [post(url, "/v1/completions", prompt="a", ignore_eos=True).json() for _ in range(2)]
    assert found[0]["choices"] == found[1]["choices"]
    assert found[0]["usage"]["completion_tokens"] == 7


def test_one_line_of_the_log_for_each_request_without_what_was_written(tiny: str, tiny_log: Path) -> None:
    chat(tiny, messages=[{"role": "user", "content": "my secret"}])
    post(tiny, "/generate", instruction="my secret", input="my secret", parameters={})
    response = chat(tiny, messages=[{"role": "user", "content": "my secret"}], temperature="hot")
    identity = response.headers["x-request-id"]
    while identity not in tiny_log.read_text():
        pass
    assert "secret" not in tiny_log.read_text()
    line = next(row for row in map(json.loads, tiny_log.read_text().splitlines()) if row["request_id"] == identity)
    assert (line["status"], line["error"], line["route"]) == (400, "invalid_value", "/v1/chat/completions")


def test_prompts_are_logged_where_that_was_asked_for(tiny_models: list[ServedModel], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with in_thread(create_app(tiny_models, Settings(log_file=str(log), log_prompts=True))) as url:
        chat(url, messages=[{"role": "user", "content": "my secret"}])
    assert json.loads(log.read_text())["prompt"] == [{"role": "user", "content": "my secret"}]


def test_metrics_count_requests_tokens_and_refusals(tiny_models: list[ServedModel]) -> None:
    with in_thread(create_app(tiny_models, Settings())) as url:
        chat(url, ignore_eos=True)
        chat(url, n=9)
        text = httpx.get(url + "/metrics").text
    assert 'knowlm_requests_total{code="200",route="/v1/chat/completions"} 1.0' in text
    assert 'knowlm_generation_tokens_total{model="tiny"} 4.0' in text
    assert 'knowlm_rejected_total{reason="invalid_value"} 1.0' in text
    assert 'knowlm_model_loaded{engine="transformers",model="tiny"} 1.0' in text
    assert 'knowlm_time_to_first_token_seconds_count{model="tiny"} 1.0' in text
    assert 'knowlm_running{engine="transformers-0"} 0.0' in text


def test_metrics_need_a_key_are_open_or_off(tiny_models: list[ServedModel]) -> None:
    key, line = new_key("a")
    del line
    keys = load_keys(plain=[key])
    for metrics, statuses in (("keys", (401, 200)), ("open", (200, 200)), ("off", (401, 404))):
        with in_thread(create_app(tiny_models, Settings(keys=keys, metrics=metrics))) as url:  # type: ignore[arg-type]
            bare, keyed = httpx.get(url + "/metrics"), httpx.get(url + "/metrics", headers={"x-api-key": key})
        assert (bare.status_code, keyed.status_code) == statuses


def test_names_must_differ_and_adapters_must_be_there(tiny_models: list[ServedModel]) -> None:
    with pytest.raises(UserError, match="same name"):
        create_app([tiny_models[0], tiny_models[0]])
    with pytest.raises(UserError, match="no adapter 'x'"):
        create_app([ServedModel("a", tiny_models[0].engine, adapter="x")])
    with pytest.raises(UserError, match="no model"):
        create_app([])


def test_beams_are_there_where_the_engine_has_them(tiny: str) -> None:
    found = chat(tiny, num_beams=3, temperature=None, max_tokens=5, ignore_eos=True)
    assert found.status_code == 200 and found.json()["usage"]["completion_tokens"] == 5


def test_an_endpoint_elsewhere_is_served_with_its_counts_and_without_its_tokens(tiny: str) -> None:
    engine = OpenAIEngine(tiny + "/v1", "tiny", "", ["ignore_eos", "top_k"])
    with in_thread(create_app([ServedModel("far", engine)], Settings())) as url:
        direct, through = chat(tiny, ignore_eos=True).json(), chat(url, ignore_eos=True).json()
        assert through["choices"] == direct["choices"] and through["usage"] == direct["usage"]
        assert (
            f'knowlm_prompt_tokens_total{{model="far"}} {direct["usage"]["prompt_tokens"]}.0'
            in httpx.get(url + "/metrics").text
        )
        assert error(chat(url, min_p=0.1, temperature=1))["param"] == "min_p"
        assert error(post(url, "/tokenize", prompt="a"))["code"] == "unsupported_parameter"
    engine.close()


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer_is_a_503() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "none")
    with in_thread(create_app([ServedModel("far", engine)], Settings())) as url:
        response = chat(url)
        assert response.status_code == 503 and error(response)["code"] == "engine_down"
        assert int(response.headers["retry-after"]) >= 1
    engine.close()
