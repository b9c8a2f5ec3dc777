"""What every request passes: ids, keys, hosts, sizes, types, CORS."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from src.serving.app import create_app
from src.serving.keys import load_keys, new_key
from src.serving.served import ServedModel
from src.serving.settings import Settings
from tests.serving.serving_live import in_thread

ALICE, BOB = new_key("alice"), new_key("bob")


@pytest.fixture(scope="module")
def locked(tiny_models: list[ServedModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with two keys and small limits, and its log."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys.txt").write_text(f"{ALICE[1]}\n{BOB[1]}\n")
    settings = Settings(
        keys=load_keys(str(folder / "keys.txt")),
        log_file=str(folder / "log"),
        max_body_bytes=2000,
        body_timeout_s=0.5,
        requests_per_minute=5,
        cors_origins=("https://example.org",),
    )
    with in_thread(create_app(tiny_models, settings)) as url:
        yield url, folder / "log"


def chat(url: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **body}
    return httpx.post(url + "/v1/chat/completions", json=asked, headers=headers, timeout=60)


def test_without_a_key_or_with_a_wrong_one_nothing_but_health_is_answered(locked: tuple[str, Path]) -> None:
    url, _ = locked
    for headers in ({}, {"authorization": "Bearer no"}, {"x-api-key": "no"}, {"authorization": "Basic " + ALICE[0]}):
        response = chat(url, headers)
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/version", "/metrics", "/nowhere"):
        assert httpx.get(url + path).status_code == 401
    for path in ("/health", "/ready", "/is_ready"):
        assert httpx.get(url + path).status_code == 200
    response = httpx.post(url + "/generate", json={})
    assert response.status_code == 401 and set(response.json()) == {
        "generated_text",
        "num_output_tokens_cf",
        "error",
    }


def test_a_key_is_taken_from_either_header_and_its_name_logged(locked: tuple[str, Path]) -> None:
    url, log = locked
    assert httpx.get(url + "/v1/models", headers={"authorization": f"bearer {ALICE[0]}"}).status_code == 200
    response = httpx.get(url + "/v1/models", headers={"x-api-key": BOB[0], "x-request-id": "seen-1"})
    assert response.status_code == 200
    while "seen-1" not in log.read_text():
        time.sleep(0.01)
    assert next(row["key"] for row in map(json.loads, log.open()) if row["request_id"] == "seen-1") == "bob"
    assert ALICE[0] not in log.read_text() and BOB[0] not in log.read_text()


def test_the_limit_of_one_key_leaves_the_other_alone(locked: tuple[str, Path]) -> None:
    url, _ = locked
    statuses = [chat(url, {"x-api-key": BOB[0]}) for _ in range(7)]
    assert [response.status_code for response in statuses].count(200) == 5
    assert statuses[-1].status_code == 429 and int(statuses[-1].headers["retry-after"]) >= 1
    assert statuses[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert chat(url, {"x-api-key": ALICE[0]}).status_code == 200


def test_a_body_beyond_the_limit_is_a_413_announced_or_not(locked: tuple[str, Path]) -> None:
    url, _ = locked
    headers = {"x-api-key": ALICE[0], "content-type": "application/json"}
    big = b'{"messages": "' + b"x" * 3000 + b'"}'
    announced = httpx.post(url + "/v1/chat/completions", content=big, headers=headers)
    streamed = httpx.post(url + "/v1/chat/completions", content=iter([big[:1500], big[1500:]]), headers=headers)
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert announced.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_of_another_type_is_a_415(locked: tuple[str, Path], kind: str) -> None:
    headers = {"x-api-key": ALICE[0], "content-type": kind}
    assert httpx.post(locked[0] + "/v1/chat/completions", content=b"{}", headers=headers).status_code == 415


def test_a_charset_beside_the_type_is_fine(locked: tuple[str, Path]) -> None:
    headers = {"x-api-key": ALICE[0], "content-type": "application/json; charset=utf-8"}
    assert httpx.post(locked[0] + "/tokenize", content=b'{"prompt": "a"}', headers=headers).status_code == 200


def test_a_body_that_does_not_come_is_a_408(locked: tuple[str, Path]) -> None:
    host, port = locked[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST /tokenize HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: {ALICE[0]}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{".encode())
        answer = client.recv(4000)
    assert b" 408 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /he"])
def test_headers_that_do_not_come_end_the_connection(locked: tuple[str, Path], sent: bytes) -> None:
    host, port = locked[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(sent[:-1])
        time.sleep(0.3)
        client.sendall(sent[-1:])
        taken = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(4000):
                taken += piece
    assert taken.startswith(b"HTTP/1.1 200") if len(sent) > 1 else not taken


def test_connections_beyond_the_limit_are_closed_and_the_others_served(tiny_models: list[ServedModel]) -> None:
    with in_thread(create_app(tiny_models, Settings(max_connections=3))) as url, httpx.Client() as client:
        assert client.get(url + "/health").status_code == 200  # one connection, which is kept
        host, port = url.removeprefix("http://").split(":")
        others = [socket.create_connection((host, int(port)), timeout=5) for _ in range(5)]
        closed = 0
        for other in others:
            other.settimeout(0.3)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                closed += other.recv(1) == b""
        for other in others:
            other.close()
        assert client.get(url + "/health").status_code == 200


def test_a_client_that_leaves_before_its_body_is_out_is_logged_as_gone(locked: tuple[str, Path]) -> None:
    host, port = locked[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST /tokenize HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: {ALICE[0]}\r\nX-Request-Id: half-1\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{".encode())
    while "half-1" not in locked[1].read_text():
        time.sleep(0.01)
    line = next(row for row in map(json.loads, locked[1].open()) if row["request_id"] == "half-1")
    assert (line["status"], line["aborted"]) == (499, "client_gone")


def test_a_request_id_is_given_back_and_an_odd_one_replaced(locked: tuple[str, Path]) -> None:
    url, _ = locked
    assert httpx.get(url + "/health", headers={"x-request-id": "my.id-1"}).headers["x-request-id"] == "my.id-1"
    for odd in ("a b", "x" * 200, 'a"b'):
        found = httpx.get(url + "/health", headers={"x-request-id": odd}).headers["x-request-id"]
        assert found != odd and len(found) == 32
    assert len(chat(url).headers["x-request-id"]) == 32


def test_pages_of_listed_sites_may_call_and_others_may_not(locked: tuple[str, Path]) -> None:
    url, _ = locked
    names = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"  # of OpenAI's own client
    ask = {"access-control-request-method": "POST", "access-control-request-headers": names}
    allowed = httpx.options(url + "/v1/chat/completions", headers={"origin": "https://example.org", **ask})
    other = httpx.options(url + "/v1/chat/completions", headers={"origin": "https://evil.example", **ask})
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://example.org"
    assert "access-control-allow-credentials" not in allowed.headers
    assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
    refused = chat(url, {"origin": "https://example.org"})  # so that the page can read why
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://example.org"


def test_without_a_list_no_site_may_call(tiny: str) -> None:
    ask = {"origin": "https://example.org", "access-control-request-method": "POST"}
    response = httpx.options(tiny + "/v1/chat/completions", headers=ask)
    assert response.status_code == 405 and "access-control-allow-origin" not in response.headers
    assert "access-control-allow-origin" not in chat(tiny, {"origin": "https://example.org"}).headers


def test_without_keys_a_name_that_only_points_here_is_refused(tiny: str) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert chat(tiny, {"host": host}).status_code == 403
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
        assert chat(tiny, {"host": host}).status_code == 200


def test_a_failure_of_ours_is_a_500_that_names_the_request_and_not_the_reason(
    tiny_models: list[ServedModel], caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(tiny_models, Settings())

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("secret")

    with in_thread(app) as url:
        response = httpx.get(url + "/broken", headers={"x-request-id": "id-7"})
    assert response.status_code == 500
    assert "id-7" in response.json()["error"]["message"] and "secret" not in response.text
    assert "secret" in caplog.text and "id-7" in caplog.text


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan", "inf"])
def test_a_time_limit_that_is_none_is_a_400(tiny: str, given: str) -> None:
    response = chat(tiny, {"x-request-timeout": given})
    assert response.status_code == 400 and response.json()["error"]["param"] == "X-Request-Timeout"
