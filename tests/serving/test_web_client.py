"""The page's client of the API: against a real server with a random model, and against bytes cut anywhere."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from src.generation.engines.server_process import free_port
from src.serving.app import create_app
from src.serving.served import ServedModel
from src.serving.settings import Settings
from src.serving.web.client import Api, PageError, Piece, event_data
from tests.serving.serving_live import in_thread


def collected(pieces: AsyncIterator[Piece]) -> list[Piece]:
    async def collect() -> list[Piece]:
        return [piece async for piece in pieces]

    return asyncio.run(collect())


def openai_only(app: FastAPI) -> Any:
    """Another server's app: ours, of which only what lies below /v1 is reached."""

    async def below(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": ""}, receive, send)

    return below


@given(st.lists(st.text(), max_size=5), st.data())
def test_events_are_read_whole_however_their_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    texts = [text.replace("\n", " ").replace("\r", " ") for text in texts]
    wire = b"".join(b": ping\n\ndata: " + text.encode() + b"\n\n" for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))

    async def read() -> list[str]:
        async def chunks() -> AsyncIterator[bytes]:
            for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
                yield wire[start:end]

        return [text async for text in event_data(chunks())]

    assert asyncio.run(read()) == texts


def test_line_separators_inside_an_answer_are_text() -> None:
    async def read() -> list[str]:
        async def chunks() -> AsyncIterator[bytes]:
            yield "data: a\u2028b\x85c\r\n\r\n".encode()

        return [text async for text in event_data(chunks())]

    assert asyncio.run(read()) == ["a\u2028b\x85c"]


def test_models_come_with_what_their_engine_can_do(tiny: str) -> None:
    first, plain = asyncio.run(Api(tiny).models())
    assert (first.id, first.engine, first.chat, plain.chat) == ("tiny", "transformers", True, False)
    assert first.capabilities is not None and {"beams", "top_k"} <= first.capabilities


def test_a_base_address_may_end_in_v1(tiny: str) -> None:
    assert asyncio.run(Api(f"{tiny}/v1/").models()) == asyncio.run(Api(tiny).models())


def test_a_chat_streams_and_ends_with_its_counts(tiny: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    pieces = collected(Api(tiny).chat("tiny", messages, {"max_tokens": 6, "ignore_eos": True, "temperature": 0.0}))
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["length"]
    assert [piece.completion_tokens for piece in pieces if piece.completion_tokens] == [6]
    assert "".join(piece.text for piece in pieces)


def test_a_text_is_continued(tiny: str) -> None:
    pieces = collected(Api(tiny).complete("plain", "Once", {"max_tokens": 4, "ignore_eos": True}))
    assert "".join(piece.text for piece in pieces) and pieces[-1].completion_tokens == 4


def test_an_instruction_goes_through_the_template_of_the_server(tiny: str) -> None:
    pieces = collected(Api(tiny).instruct("tiny", "Add.", "1 1", {"max_tokens": 5, "ignore_eos": True}))
    assert "".join(piece.text for piece in pieces) and pieces[-1].completion_tokens == 5
    assert not any(piece.remark for piece in pieces)


def test_a_server_without_generate_is_sent_a_message_and_the_reader_told(tiny_models: list[ServedModel]) -> None:
    app = FastAPI()
    ours = create_app(tiny_models, Settings())
    app.state.gateway = ours.state.gateway
    app.mount("/v1", openai_only(ours))
    with in_thread(app) as url:
        pieces = collected(Api(url).instruct("tiny", "Add.", "1 1", {"max_tokens": 5, "ignore_eos": True}))
    assert pieces[0].remark == "instruction_plain" and "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("way", ["chat", "instruct"])
def test_a_refusal_brings_what_the_server_said(tiny: str, way: str) -> None:
    api = Api(tiny)
    messages = [{"role": "user", "content": "Hello"}]
    pieces = api.chat("gone", messages, {}) if way == "chat" else api.instruct("gone", "Hello", "", {})
    with pytest.raises(PageError, match="there is no model 'gone'") as error:
        collected(pieces)
    assert error.value.status == 404


def test_a_parameter_that_can_not_be_met_is_named(tiny: str) -> None:
    with pytest.raises(PageError) as error:
        collected(Api(tiny).complete("plain", "Once", {"num_beams": 2, "temperature": 0.7}))
    assert (error.value.status, error.value.code, error.value.param) == (400, "unsupported_parameter", "temperature")


@pytest.mark.parametrize("key", ["schlüssel", "钥匙", "a b", "a\nb"])
def test_a_key_that_no_header_can_carry_is_an_error_of_its_own(key: str) -> None:
    with pytest.raises(PageError) as error:
        Api("http://127.0.0.1:1", key)
    assert error.value.code == "bad_key"


def test_the_pages_own_server_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PageError, match="All connection attempts failed"):  # the proxy is asked, and is not there
        asyncio.run(Api("http://name.invalid").models())
    with pytest.raises(PageError, match=r"Name|name|address"):
        asyncio.run(Api("http://name.invalid", proxies=False).models())


def test_a_server_that_is_gone_is_an_error_without_a_status() -> None:
    with pytest.raises(PageError, match=r"127\.0\.0\.1") as error:
        asyncio.run(Api(f"http://127.0.0.1:{free_port()}").models())
    assert error.value.status == 0
