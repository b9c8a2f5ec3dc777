"""``scripts/serve.py`` as a process: what it refuses at once, how it ends, and what it does when its engine dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from src.serving.keys import load_keys
from tests.serving.serving_live import ROOT, Command

pytestmark = pytest.mark.slow

LLAMACPP = ("engine=llamacpp", "max_parallel=2", "context_length=2048")


def run(*settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command where it ends by itself."""
    command = [sys.executable, "scripts/serve.py", *settings]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Any]:
    """Starts the command with these settings; it is ended after the test."""
    started: list[Command] = []

    def start(*settings: str, **environment: str) -> Command:
        started.append(Command(tmp_path, *settings, environment=environment))
        return started[-1].wait_until_ready()

    yield start
    for one in started:
        one.stop()


def stream(url: str, into: list[str], **body: Any) -> threading.Thread:
    """Read a stream of a completion in a thread, for as long as there is one; returns when text has come."""

    def read() -> None:
        asked = {"prompt": "Once upon a time", "stream": True, "ignore_eos": True, **body}
        with (
            contextlib.suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", url + "/v1/completions", json=asked, timeout=120) as response,
        ):
            for line in response.iter_lines():
                into.append(line)

    thread = threading.Thread(target=read)
    thread.start()
    end = time.monotonic() + 60
    while len(into) < 4:
        assert time.monotonic() < end
        time.sleep(0.05)
    return thread


def test_new_key_prints_a_key_and_the_line_that_lets_it_in(tmp_path: Path) -> None:
    found = run("new_key=alice")
    key, line = (row.split(": ", 1)[1].strip() for row in found.stdout.splitlines())
    (tmp_path / "keys.txt").write_text(line)
    assert load_keys(str(tmp_path / "keys.txt")).owner(key) == "alice"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["host=0.0.0.0"], "insecure=true"),
        (["host=no.such.host.invalid", "insecure=true"], "not a name or address of this machine"),
        (["host=192.0.2.1", "insecure=true"], "can't listen on 192.0.2.1"),
        (["keys_file=none.txt"], "keys_file=none.txt does not exist"),
        (["api_keys=[short]"], "5 characters"),
        (["max_n=0"], "max_n is 0"),
        (["adapters={smollm2_135m: x}"], "two models would be called 'smollm2_135m'"),
        (["more_models={other: no-such-model}"], "no model 'no-such-model'"),
        (
            ["engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "engine.model=x", "decoding=beam"],
            "num_beams, which the openai engine can't do",
        ),
        (["log_file=/no/such/folder/log", "model=llama_tiny", "engine=transformers"], "log_file="),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(settings: list[str], said: str) -> None:
    found = run("port=0", *settings)
    assert found.returncode == 2, found.stderr
    assert found.stderr.splitlines()[-1].startswith("error: ") and said in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_in_use_is_said_before_a_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = run(f"port={port}")
    assert found.returncode == 2 and f"port {port} of 127.0.0.1 is in use" in found.stderr
    assert "llama.cpp serves" not in found.stderr


def test_keys_of_the_environment_guard_the_server_and_its_page_is_there(command: Any) -> None:
    key = "a-key-that-is-long-enough"
    server = command(
        *("model=llama_tiny", "engine=transformers", "chat=true", "web=true"),
        KNOWLM_API_KEYS=f"{key},another-long-key-x",
    )
    assert httpx.get(server.url + "/v1/models").status_code == 401
    assert httpx.get(server.url + "/v1/models", headers={"x-api-key": key}).status_code == 200
    page = httpx.get(server.url + "/ui/")
    assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    assert "2 API keys" in server.said() and f"page: {server.url}/ui/" in server.said()
    server.process.send_signal(signal.SIGTERM)  # nothing runs, and it listens for drain_min_s all the same
    time.sleep(0.3)
    assert httpx.get(server.url + "/ready").status_code == 503
    assert server.process.wait(30) == 0


def test_when_the_engine_is_killed_requests_get_503_until_it_is_back_and_sigterm_lets_a_stream_end(
    command: Any,
) -> None:
    server = command(*LLAMACPP)
    url, asked = server.url, {"prompt": "Once", "max_tokens": 4}
    before = httpx.post(url + "/v1/completions", json={**asked, "temperature": 0}, timeout=60).json()
    lines: list[str] = []
    reader = stream(url, lines, max_tokens=1500)
    server.engine().send_signal(signal.SIGKILL)
    reader.join(30)
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "engine_down"
    refused = httpx.post(url + "/v1/completions", json=asked)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "engine_down"
    assert httpx.get(url + "/ready").status_code == 503 and httpx.get(url + "/is_ready").json() is False
    assert httpx.get(url + "/health").status_code == 200  # it is being started again
    end = time.monotonic() + 90
    while httpx.get(url + "/ready").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.2)
    after = httpx.post(url + "/v1/completions", json={**asked, "temperature": 0}, timeout=60).json()
    assert after["choices"] == before["choices"]

    lines.clear()
    engine = server.engine()
    reader = stream(url, lines, max_tokens=100)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert httpx.get(url + "/ready").status_code == 503
    assert httpx.post(url + "/v1/completions", json=asked).json()["error"]["code"] == "draining"
    reader.join(60)
    assert lines[-2] == "data: [DONE]"
    assert server.process.wait(30) == 0
    assert not engine.is_running() and not psutil.pid_exists(engine.pid)


def test_what_does_not_end_in_time_is_broken_off_with_an_error(command: Any) -> None:
    server = command(*LLAMACPP, "drain_s=0.5")
    lines: list[str] = []
    reader = stream(server.url, lines, max_tokens=1900)
    assert server.stop(30) == 0
    reader.join(10)
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "draining"


def test_a_second_signal_ends_everything_at_once(command: Any) -> None:
    server = command(*LLAMACPP)
    engine, lines = server.engine(), list[str]()
    reader = stream(server.url, lines, max_tokens=1900)
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(5) == 128 + signal.SIGINT
    assert time.monotonic() - began < 5
    psutil.wait_procs([engine], timeout=5)
    assert not engine.is_running()
    reader.join(10)
    assert "[DONE]" not in "".join(lines)
