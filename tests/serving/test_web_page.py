"""The page as the server sends it."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Mount

from src.errors import UserError
from src.serving.web.page import MAX_BODY_BYTES, MAX_SESSIONS, mount
from tests.serving.serving_live import uvicorn_in_thread


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI(redirect_slashes=False)
    mount(app, "http://127.0.0.1:1/v1")
    with TestClient(app, follow_redirects=False) as client:
        yield client


def test_the_page_comes_in_two_languages(client: TestClient) -> None:
    english, chinese = client.get("/ui/"), client.get("/ui/zh/")
    assert english.status_code == chinese.status_code == 200
    assert "Creative" in english.text and "创作" not in english.text
    assert "\\u521b\\u4f5c" in chinese.text or "创作" in chinese.text


@pytest.fixture(scope="module")
def pages() -> Iterator[tuple[FastAPI, str]]:
    """A server of the page on a real connection, which can be closed."""
    app = FastAPI()
    mount(app, "http://127.0.0.1:1/v1")
    with uvicorn_in_thread(app) as url:
        yield app, url


def sessions_of(app: FastAPI) -> Any:
    """The sessions that Gradio holds of the English page."""
    (page,) = [route.app for route in app.routes if isinstance(route, Mount) and route.path == "/ui"]
    return page.state_holder.session_data  # type: ignore[attr-defined]


@pytest.mark.parametrize(("language", "to"), [("zh-CN,en", "/ui/zh/"), ("en-GB", "/ui/"), ("", "/ui/")])
def test_the_root_sends_each_browser_to_its_language(client: TestClient, language: str, to: str) -> None:
    response = client.get("/", headers={"accept-language": language})
    assert response.is_redirect and str(response.next_request.url.path) == to  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/ui", "/ui/zh"])
def test_a_missing_slash_is_added(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.is_redirect and response.next_request.url.path == f"{path}/"  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/ui/", "/ui/zh/", "/ui/config"])
def test_every_answer_forbids_what_comes_from_elsewhere(client: TestClient, path: str) -> None:
    response = client.get(path)
    policy = response.headers["content-security-policy"]
    assert response.status_code == 200 and "default-src 'self'" in policy and "http" not in policy


def test_nothing_of_the_page_is_offered_as_an_api(client: TestClient) -> None:
    assert client.get("/ui/config").json()["footer_links"] == []
    assert client.app.openapi()["paths"] == {}  # type: ignore[attr-defined]


def test_analytics_are_off(client: TestClient) -> None:
    assert client.get("/ui/config").json()["analytics_enabled"] is False


@pytest.mark.parametrize("language", ["", "zh/"])
def test_what_else_gradio_offers_is_not_there(client: TestClient, language: str) -> None:
    for path in ("upload", "upload/", "process_recording", "component_server", "run/on_send", "call/on_send"):
        assert client.post(f"/ui/{language}gradio_api/{path}", files={"files": b"x"}).status_code == 404
    for path in ("gradio_api/file=http://127.0.0.1:1/x", "gradio_api/file=/etc/hostname", "gradio_api/proxy=x"):
        assert client.get(f"/ui/{language}{path}").status_code == 404
    for path in ("gradio_api/deep_link", "gradio_api/info", "gradio_api/queue/status", "config/x", "monitoring"):
        assert client.get(f"/ui/{language}{path}").status_code == 404


def event(client: httpx.Client, session: str, key: str = "") -> None:
    """What the page sends when it has loaded: the key and the models, which can't be had here."""
    config = client.get("/ui/config").json()
    (event,) = [one for one in config["dependencies"] if one["api_name"] == "_read_models"]
    data = [key, None, None, None]
    body = {"fn_index": event["id"], "data": data[: len(event["inputs"])], "session_hash": session}
    joined = client.post("/ui/gradio_api/queue/join", json=body)
    assert joined.status_code == 200
    with client.stream("GET", f"/ui/gradio_api/queue/data?session_hash={session}") as answer:
        assert "process_completed" in answer.read().decode()


def test_a_page_that_is_closed_leaves_nothing_in_memory(pages: tuple[FastAPI, str]) -> None:
    app, url = pages
    sessions = sessions_of(app)
    with httpx.Client(base_url=url) as client:
        event(client, "visitor", "a-secret-key")
        assert "a-secret-key" in str(sessions["visitor"].config_values)
        with client.stream("GET", "/ui/gradio_api/heartbeat/visitor") as alive:
            next(alive.iter_text())
    end = time.monotonic() + 10
    while "visitor" in sessions:
        assert time.monotonic() < end, "the session is still there"
        time.sleep(0.02)


def test_sessions_of_strangers_are_few(pages: tuple[FastAPI, str]) -> None:
    app, url = pages
    with httpx.Client(base_url=url) as client:
        for number in range(MAX_SESSIONS + 5):
            event(client, f"stranger{number}")
    assert len(sessions_of(app)) <= MAX_SESSIONS


def test_other_sites_may_not_use_the_page(client: TestClient) -> None:
    foreign = {"origin": "https://evil.example", "host": "public.example"}
    assert client.get("/ui/config", headers=foreign).status_code == 403
    asked = {**foreign, "access-control-request-method": "POST"}
    assert client.options("/ui/gradio_api/queue/join", headers=asked).status_code == 403
    own = client.get("/ui/config", headers={"origin": "https://public.example", "host": "public.example"})
    assert own.status_code == 200 and not [name for name in own.headers if name.startswith("access-control")]
    behind_a_proxy = {"origin": "https://public.example", "sec-fetch-site": "same-origin"}
    assert client.get("/ui/config", headers=behind_a_proxy).status_code == 200


def test_bodies_beyond_the_limit_are_refused(client: TestClient) -> None:
    address = "/ui/gradio_api/queue/join"
    assert client.post(address, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    chunks = (b" " * (1 << 20) for _ in range((MAX_BODY_BYTES >> 20) + 2))  # of no stated length
    assert client.post(address, content=chunks).status_code >= 400


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[serve\]'"):
        mount(FastAPI(), "http://127.0.0.1:1")
