"""Answers that don't end as they should: clients that leave or stall, time limits, full lines, engines that fail."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from src.generation.engine import Decoding, Request
from src.serving.access_log import Trace
from src.serving.app import create_app
from src.serving.asking import Asked
from src.serving.gateway import Gateway
from src.serving.replies import Reply
from src.serving.served import ServedModel
from src.serving.settings import Settings
from src.serving.shapes import CompletionShape
from tests.serving.serving_live import in_thread

LONG = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 400, "ignore_eos": True}


@pytest.fixture
def app_of(tiny_models: list[ServedModel], tmp_path: Path) -> Any:
    def made(**settings: Any) -> Any:
        return create_app(tiny_models, Settings(log_file=str(tmp_path / "log"), **settings))

    return made


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def until(what: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def raw_request(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request was sent and nothing read."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


def connections(url: str) -> list[Any]:
    """Connections of the server's side that are open or have something left to send."""
    port = int(url.rsplit(":", 1)[1])
    found = psutil.Process().net_connections("tcp")
    return [one for one in found if one.laddr.port == port and one.status != psutil.CONN_LISTEN]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_engine(app_of: Any, tmp_path: Path, stream: bool) -> None:
    app = app_of()
    gateway: Gateway = app.state.gateway
    with in_thread(app) as url:
        client = raw_request(url, {**LONG, "stream": stream})
        until(lambda: "knowlm_generation_tokens_total" in httpx.get(url + "/metrics").text)
        assert computed(gateway, 0.1) > 0
        client.close()
        until(lambda: not gateway.jobs)
        time.sleep(0.1)  # for the token that was being computed
        assert computed(gateway, 0.3) == 0
    line = next(row for row in lines(tmp_path) if row["path"] == "/v1/chat/completions")
    assert (line["status"], line["aborted"]) == (499, "client_gone")


def computed(gateway: Gateway, seconds: float) -> int:
    """How often the engine runs its model in so much time, whoever is told of it."""
    calls: list[int] = []
    (engine,) = gateway.models.engines()
    hook = engine.model.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    time.sleep(seconds)
    hook.remove()
    return len(calls)


def _tokens(url: str) -> float:
    text = httpx.get(url + "/metrics").text
    return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith("knowlm_generation_tokens_total"))


def test_a_client_that_leaves_the_line_frees_its_place(app_of: Any) -> None:
    app = app_of(max_waiting=1)
    gateway: Gateway = app.state.gateway
    with in_thread(app) as url:
        running = [raw_request(url, LONG) for _ in range(2)]
        until(lambda: sum(len(job.requests) for job in gateway.jobs) == 2)
        waiting = raw_request(url, LONG)
        until(lambda: len(gateway.jobs) == 3)
        assert httpx.post(url + "/v1/chat/completions", json=LONG).status_code == 429
        waiting.close()
        until(lambda: len(gateway.jobs) == 2)
        for client in running:
            client.close()
        until(lambda: not gateway.jobs)
        assert httpx.post(url + "/v1/chat/completions", json={**LONG, "max_tokens": 2}, timeout=60).status_code == 200


def test_a_burst_is_answered_or_refused_and_none_is_forgotten(app_of: Any) -> None:
    asked = {**LONG, "max_tokens": 20}
    with in_thread(app_of(max_waiting=3)) as url, ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: httpx.post(url + "/v1/chat/completions", json=asked, timeout=60), range(20)))
        statuses = [response.status_code for response in found]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 5  # two run, three wait
        assert all(int(response.headers["retry-after"]) >= 1 for response in found if response.status_code == 429)
        assert all(
            response.json()["error"]["code"] == "queue_full" for response in found if response.status_code == 429
        )


def test_waiting_too_long_is_a_503(app_of: Any) -> None:
    with in_thread(app_of(queue_wait_s=0.05)) as url:
        clients = [raw_request(url, LONG) for _ in range(2)]
        time.sleep(0.05)
        response = httpx.post(url + "/v1/chat/completions", json=LONG, timeout=60)
        assert response.status_code == 503 and response.json()["error"]["code"] == "queue_timeout"
        assert int(response.headers["retry-after"]) >= 1
        for client in clients:
            client.close()


def test_a_batch_does_not_time_out_behind_itself(app_of: Any) -> None:
    asked = {"prompt": ["hi"] * 8, "max_tokens": 60, "ignore_eos": True}
    with in_thread(app_of(queue_wait_s=0.05)) as url:  # two run at a time
        response = httpx.post(url + "/v1/completions", json=asked, timeout=60)
    assert response.status_code == 200 and len(response.json()["choices"]) == 8


def test_an_answer_that_takes_too_long_is_a_504_or_the_last_event_of_its_stream(app_of: Any, tmp_path: Path) -> None:
    with in_thread(app_of()) as url:
        headers = {"x-request-timeout": "0.2"}
        plain = httpx.post(url + "/v1/chat/completions", json=LONG, headers=headers, timeout=60)
        streamed = httpx.post(url + "/v1/chat/completions", json={**LONG, "stream": True}, headers=headers, timeout=60)
    assert plain.status_code == 504 and plain.json()["error"]["code"] == "timeout"
    assert streamed.status_code == 200
    last = json.loads(streamed.text.rstrip().rsplit("\n\n", 1)[1].removeprefix("data: "))
    assert last["error"]["code"] == "timeout" and "[DONE]" not in streamed.text
    assert [row["aborted"] for row in lines(tmp_path)] == ["timeout", "timeout"]


def test_the_servers_time_limit_is_the_most_that_a_request_may_ask_for(app_of: Any) -> None:
    with in_thread(app_of(request_timeout_s=0.2)) as url:
        response = httpx.post(url + "/v1/chat/completions", json=LONG, headers={"x-request-timeout": "60"}, timeout=60)
    assert response.status_code == 504


def test_a_stream_in_line_shows_signs_of_life(app_of: Any) -> None:
    with in_thread(app_of(ping_s=0.05)) as url:
        clients = [raw_request(url, LONG) for _ in range(2)]
        time.sleep(0.05)
        asked = {**LONG, "stream": True, "max_tokens": 2}
        with httpx.stream("POST", url + "/v1/chat/completions", json=asked, timeout=60) as response:
            pieces = response.iter_text()
            text = ""
            while text.count(": still waiting") < 2:
                text += next(pieces)
            for client in clients:
                client.close()
            text += "".join(pieces)
    assert text.endswith("data: [DONE]\n\n")


def test_a_reader_that_takes_nothing_is_dropped_and_the_engine_stops(app_of: Any, tmp_path: Path) -> None:
    app = app_of(slow_reader_s=0.5)
    gateway: Gateway = app.state.gateway
    body = {**LONG, "max_tokens": 450, "stream": True, "n": 8, "logprobs": True, "top_logprobs": 20}
    with in_thread(app) as url:
        client = raw_request(url, body)  # eight answers with twenty neighbours a token: megabytes
        until(lambda: gateway.jobs, 10)
        until(lambda: not gateway.jobs, 60)
        until(lambda: not connections(url), 10)  # what was sent lies in no buffer any more
        client.close()
    # "client_gone" where the kernel cut the connection before our buffers were full
    line = lines(tmp_path)[0]
    assert line["aborted"] in ("slow_reader", "client_gone") and line["completion_tokens"] < 8 * 450


def test_a_reader_that_is_slow_but_reads_is_not_dropped(app_of: Any, tmp_path: Path) -> None:
    app = app_of(slow_reader_s=1.5)  # on a busy machine this reader itself may stand still for a while
    body = {**LONG, "max_tokens": 100, "stream": True, "n": 8, "logprobs": True, "top_logprobs": 20}
    with in_thread(app) as url:
        client = raw_request(url, body)
        client.settimeout(60)
        taken = b""
        while b"[DONE]" not in taken[-200:]:
            piece = client.recv(20_000)
            assert piece, "the connection was cut"
            taken += piece
            time.sleep(0.03)
        client.close()
        until(lambda: lines(tmp_path))
    assert "aborted" not in lines(tmp_path)[0] and lines(tmp_path)[0]["seconds"] > 1.5


def test_a_key_pays_for_prompt_and_answer_even_when_it_leaves(app_of: Any) -> None:
    app = app_of(tokens_per_minute=20)
    with in_thread(app) as url:
        client = raw_request(url, LONG)
        until(lambda: _tokens(url) > 20)
        client.close()
        until(lambda: not app.state.gateway.jobs)
        refused = httpx.post(url + "/v1/chat/completions", json={**LONG, "max_tokens": 1}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_a_key_does_not_pay_for_what_it_did_not_get(app_of: Any) -> None:
    app = app_of(max_waiting=0, requests_per_minute=3, tokens_per_minute=10_000)
    gateway: Gateway = app.state.gateway
    short = {**LONG, "max_tokens": 1}
    with in_thread(app) as url:
        clients = [raw_request(url, LONG) for _ in range(2)]
        until(lambda: sum(len(job.requests) for job in gateway.jobs) == 2)
        for _ in range(5):
            refused = httpx.post(url + "/v1/chat/completions", json=short)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        for client in clients:
            client.close()
        until(lambda: not gateway.jobs)
        assert httpx.post(url + "/v1/chat/completions", json=short, timeout=60).status_code == 200
        last = httpx.post(url + "/v1/chat/completions", json=short, timeout=60)
        assert last.json()["error"]["code"] == "rate_limit_exceeded"


def test_prompts_that_waited_in_vain_are_not_paid_for(app_of: Any, tmp_path: Path) -> None:
    with in_thread(app_of(queue_wait_s=0.05)) as url:
        clients = [raw_request(url, LONG) for _ in range(2)]
        time.sleep(0.1)
        assert httpx.post(url + "/v1/chat/completions", json=LONG, timeout=60).status_code == 503
        for client in clients:
            client.close()
    assert [row["prompt_tokens"] for row in lines(tmp_path) if row["status"] == 503] == [0]


async def reply_to(app: Any, send: Any, tokens: int) -> Trace:
    """A stream of so many tokens to a client whose side is ``send``."""

    async def receive() -> Any:
        await asyncio.sleep(60)

    gateway: Gateway = app.state.gateway
    request = Request("x", prompt="hi", decoding=Decoding(tokens, ignore_eos=True))
    asked = Asked("cmpl-1", next(iter(gateway.models)), [request], stream=True)
    trace = Trace("id", "POST", "/v1/completions", None)
    await Reply(gateway, asked, CompletionShape(asked), trace, 1, 60, lambda: None)({}, receive, send)
    return trace


def test_a_slow_reader_gets_fewer_and_larger_pieces_with_the_same_text(app_of: Any) -> None:
    def run(pause_s: float) -> tuple[int, str]:
        parts: list[bytes] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                parts.append(message["body"])
                await asyncio.sleep(pause_s)

        asyncio.run(reply_to(app_of(), send, 120))
        chunks = [json.loads(line[6:]) for line in b"".join(parts).decode().split("\n\n") if line.startswith("data: {")]
        return len(chunks), "".join(chunk["choices"][0]["text"] for chunk in chunks)

    fast, slow = run(0), run(0.1)
    assert fast[1] == slow[1]
    assert slow[0] < fast[0] / 2


def test_a_client_that_takes_no_further_byte_is_given_up(app_of: Any) -> None:
    async def stuck(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    app = app_of(slow_reader_s=0.2)
    trace = asyncio.run(asyncio.wait_for(reply_to(app, stuck, 400), 10))
    assert trace.aborted == "slow_reader" and trace.completion_tokens < 400
    assert not app.state.gateway.jobs


def test_draining_refuses_what_comes_and_lets_what_runs_end(app_of: Any) -> None:
    app = app_of()
    gateway: Gateway = app.state.gateway
    found: list[httpx.Response] = []
    with in_thread(app) as url:
        asked = {**LONG, "max_tokens": 60}
        thread = threading.Thread(
            target=lambda: found.append(httpx.post(url + "/v1/chat/completions", json=asked, timeout=60))
        )
        thread.start()
        until(lambda: gateway.jobs)
        gateway.draining = True
        refused = httpx.post(url + "/v1/chat/completions", json=asked)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        assert httpx.get(url + "/ready").status_code == 503
        assert httpx.get(url + "/health").status_code == 200
        thread.join()
        assert found[0].status_code == 200 and found[0].json()["usage"]["completion_tokens"] == 60


def test_what_comes_after_the_rest_was_broken_off_does_not_begin(app_of: Any) -> None:
    app = app_of()
    app.state.gateway.abort_all()
    with in_thread(app) as url:  # not draining: as a request whose body was still being read
        response = httpx.post(url + "/v1/chat/completions", json=LONG)
    assert response.status_code == 503 and response.json()["error"]["code"] == "draining"


def test_what_is_broken_off_at_the_end_is_told_so(app_of: Any) -> None:
    app = app_of()
    gateway: Gateway = app.state.gateway
    with in_thread(app) as url, ThreadPoolExecutor(2) as pool:
        asked: Sequence[dict[str, Any]] = [{**LONG, "stream": stream} for stream in (True, False)]
        answers = [pool.submit(httpx.post, url + "/v1/chat/completions", json=body, timeout=60) for body in asked]
        until(lambda: len(gateway.jobs) == 2 and _tokens(url) > 4)
        gateway.draining = True
        gateway.abort_all()
        streamed, plain = (answer.result() for answer in answers)
    assert plain.status_code == 503 and plain.json()["error"]["code"] == "draining"
    assert '"code":"draining"' in streamed.text.rstrip().rsplit("\n\n", 1)[1]
