"""The page as the server sends it."""

import sys
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from src.errors import UserError
from src.serving.web.page import MAX_BODY_BYTES, mount


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
    info = client.get("/ui/gradio_api/info").json()
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}
    assert client.get("/ui/config").json()["footer_links"] == []
    assert client.app.openapi()["paths"] == {}  # type: ignore[attr-defined]


def test_analytics_are_off(client: TestClient) -> None:
    assert client.get("/ui/config").json()["analytics_enabled"] is False


def test_uploads_are_refused(client: TestClient) -> None:
    assert client.post("/ui/gradio_api/upload", files={"files": b"x"}).status_code == 404
    assert client.post("/ui/zh/gradio_api/upload/", files={"files": b"x"}).status_code == 404


def test_bodies_beyond_the_limit_are_refused(client: TestClient) -> None:
    address = "/ui/gradio_api/queue/join"
    assert client.post(address, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    chunks = (b" " * (1 << 20) for _ in range((MAX_BODY_BYTES >> 20) + 2))  # of no stated length
    assert client.post(address, content=chunks).status_code >= 400


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[serve\]'"):
        mount(FastAPI(), "http://127.0.0.1:1")
