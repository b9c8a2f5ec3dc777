"""The real command with the 135M model on llama.cpp, asked by OpenAI's own client and by curl."""

import json
import math
import shutil
import subprocess
import time
from typing import Any

import openai
import pytest

from tests.serving.serving_live import Command

pytestmark = pytest.mark.slow

HELLO: Any = [{"role": "user", "content": "Hello"}]
MODEL = "smollm2_135m"


@pytest.fixture(scope="module")
def client(served: Command) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120)


def test_the_client_lists_the_model_and_its_adapter(client: openai.OpenAI) -> None:
    cards = {model.id: model for model in client.models.list()}
    assert set(cards) == {MODEL, "noise"}
    assert cards["noise"].parent == MODEL  # type: ignore[attr-defined]
    assert client.models.retrieve("noise").id == "noise"


def test_a_chat_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_completion_tokens=12)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content and text.startswith("Hello!")
    assert chunks[-1].usage == plain.usage
    assert plain.choices[0].finish_reason in ("stop", "length")


def test_the_stream_comes_in_pieces_while_it_is_written(client: openai.OpenAI) -> None:
    prompt = "Count from one to twenty in words:"
    stream = client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=40, stream=True, extra_body={"ignore_eos": True}
    )
    times = [time.perf_counter() for chunk in stream if chunk.choices[0].text]
    assert len(times) > 20
    assert times[-1] - times[0] > 5 * (times[1] - times[0])


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client: openai.OpenAI) -> None:
    prompt = "1, 2, 3, 4,"
    found = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=30, stop=[" 7", "zebra"])
    assert found.choices[0].finish_reason == "stop"
    assert "7" not in found.choices[0].text and "6" in found.choices[0].text


def test_a_json_schema_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a person."}],
        temperature=0,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )
    person = json.loads(found.choices[0].message.content or "")
    assert set(person) == {"name", "age"} and isinstance(person["age"], int)


def test_log_probabilities_are_those_of_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    spelled = b"".join(bytes(token.bytes or []) for token in logprobs.content)
    assert spelled.decode() == found.choices[0].message.content
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1.0001


def test_the_adapter_answers_otherwise_and_the_model_stays_as_it_was(client: openai.OpenAI) -> None:
    def said(model: str) -> str:
        found = client.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=12)
        return found.choices[0].message.content or ""

    plain = said(MODEL)
    assert said("noise") != plain
    assert said(MODEL) == plain


def test_seeds_repeat_and_several_answers_differ(client: openai.OpenAI) -> None:
    def said(n: int) -> list[str]:
        found = client.completions.create(model=MODEL, prompt="Once upon", seed=3, n=n, max_tokens=12)
        return [choice.text for choice in found.choices]

    assert said(1) == said(1)
    first, second = said(2)
    assert first != second


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"model": "none"}, openai.NotFoundError),
        ({"temperature": 5}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, openai.BadRequestError),
        ({"extra_body": {"num_beams": 4}}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI, asked: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 2, **asked})
    assert raised.value.body["message"]  # type: ignore[attr-defined]
    if "extra_body" in asked:
        assert raised.value.code == "unsupported_parameter"  # type: ignore[attr-defined]
        assert raised.value.param == "num_beams"  # type: ignore[attr-defined]


def curl(served: Command, path: str, body: dict[str, Any], *options: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    command = ["curl", "-sS", "--max-time", "120", *options, served.url + path, "-d", json.dumps(body)]
    return subprocess.run(
        [*command, "-H", "Content-Type: application/json"], capture_output=True, text=True, check=True
    ).stdout


def test_curl_with_knowlms_body_gets_what_the_chat_route_says(served: Command, client: openai.OpenAI) -> None:
    body = {
        "instruction": "Translate into French.",
        "input": "Good morning",
        "parameters": {"top_p": 1.0, "top_k": -1, "max_tokens": 16, "temperature": 0},
    }
    found = json.loads(curl(served, "/generate", body))
    asked: Any = [{"role": "user", "content": "Translate into French.\nGood morning"}]
    same = client.chat.completions.create(model=MODEL, messages=asked, temperature=0, max_tokens=16)
    assert found["generated_text"] == same.choices[0].message.content and found["error"] is None
    assert same.usage is not None and found["num_output_tokens_cf"] == same.usage.completion_tokens > 0


def test_curl_reads_server_sent_events(served: Command) -> None:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 6, "stream": True}
    said = curl(served, "/v1/chat/completions", body, "-N", "-i")
    head, _, events = said.partition("\r\n\r\n" if "\r\n\r\n" in said else "\n\n")
    assert "text/event-stream" in head and "no-cache" in head
    parts = [part for part in events.split("\n\n") if part]
    assert all(part.startswith("data: ") for part in parts) and parts[-1] == "data: [DONE]"
    assert json.loads(parts[0][6:])["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize("stream", [True, False])
def test_when_a_client_leaves_the_engine_computes_no_further_token(served: Command, stream: bool) -> None:
    body = {"prompt": "Once", "max_tokens": 1900, "ignore_eos": True, "stream": stream}
    engine = served.engine()
    name = f"leaves-{stream}"
    with pytest.raises(subprocess.CalledProcessError):
        curl(served, "/v1/completions", body, "--max-time", "2", "-H", f"X-Request-Id: {name}")
    line = served.line(name)
    assert (line["status"], line["aborted"]) == (499, "client_gone")
    assert line["completion_tokens"] < 1900
    before = sum(engine.cpu_times()[:2])
    time.sleep(2)
    assert sum(engine.cpu_times()[:2]) - before < 0.3
    assert served.metric("knowlm_running") == 0


def test_a_burst_is_answered_or_told_when_to_come_again(served: Command) -> None:
    import asyncio

    import httpx

    async def run() -> list[httpx.Response]:
        body = {"prompt": "Once", "max_tokens": 8, "ignore_eos": True}
        async with httpx.AsyncClient(timeout=120) as client:
            return await asyncio.gather(*(client.post(served.url + "/v1/completions", json=body) for _ in range(30)))

    found = asyncio.run(run())
    statuses = [response.status_code for response in found]
    assert set(statuses) == {200, 429} and statuses.count(200) == 12  # 4 run, 8 wait
    assert all(int(response.headers["retry-after"]) >= 1 for response in found if response.status_code == 429)


def test_what_was_written_is_in_no_log(served: Command, client: openai.OpenAI) -> None:
    secret = "xyzzy-plugh"
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": secret}], max_tokens=4)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": secret, "content": secret}])  # type: ignore
    time.sleep(0.5)
    assert secret not in served.log.read_text() and secret not in served.said()
