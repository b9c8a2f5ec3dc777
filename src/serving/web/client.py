"""What the web page asks of an HTTP API: its models, and answers as they come.

Any OpenAI-compatible endpoint will do. Two things are our own server's: `/generate`, which puts an instruction and
its input into the model's template, and the capabilities that `/v1/models` states. Only `httpx` is needed.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 600.0  # between two pieces of an answer; a long queue and a long prompt come before the first


class PageError(Exception):
    """The API refused a request, could not be reached, or was not asked at all (``status`` 0).

    Attributes:
        message: what the API said, or what went wrong with the connection.
        code, param: the OpenAI error's, empty where it gave none. Of ours: bad_key, and internal for a mistake here.
        retry_after: seconds that the API asks to wait, empty where it does not.
        knowlm: whether it came in the form of KnowLM's ``/generate``.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        code: str = "",
        param: str = "",
        retry_after: str = "",
        knowlm: bool = False,
    ):
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param
        self.retry_after, self.knowlm = retry_after, knowlm


@dataclass(frozen=True)
class Model:
    """A model of the API, with what our own server says beyond its name.

    capabilities: names of `Capability`, in small letters; None where the API does not state them.
    chat: whether it has a template for messages.
    """

    id: str
    capabilities: frozenset[str] | None = None
    engine: str = ""
    chat: bool = True


@dataclass(frozen=True)
class Piece:
    """A piece of an answer.

    completion_tokens: of the answer so far; not every API says it, and most only at the end.
    remark: key of a text that the reader should see.
    """

    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    remark: str = ""


class Api:
    """One API with one key.

    Args:
        base_url: with or without the ``/v1`` at its end.
        key: sent as a bearer token; empty sends none.
        proxies: whether to heed HTTP_PROXY and the like; never for this machine.

    Raises:
        PageError: the key has characters that a header can't have.
    """

    def __init__(self, base_url: str, key: str = "", proxies: bool = True):
        self.root = base_url.rstrip("/").removesuffix("/v1")
        self.proxies = proxies and urlsplit(self.root).hostname not in ("127.0.0.1", "localhost", "::1")
        if not all(" " < letter <= "~" for letter in key.strip()):
            raise PageError("the key has characters that no key has", code="bad_key")
        self.headers = {"Authorization": f"Bearer {key.strip()}"} if key.strip() else {}

    async def models(self) -> list[Model]:
        """The models it serves, in its order. Raises `PageError`."""
        async with self._client() as client, self._response(client, "GET", "/v1/models") as response:
            rows = _json_object(await response.aread()).get("data")
            if not isinstance(rows, list):
                raise PageError(f"{self.root}/v1/models did not answer with a list of models", response.status_code)
            return [_model(row) for row in rows if isinstance(row, dict) and row.get("id")]

    def chat(self, model: str, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """The answer to a conversation. Raises `PageError`, also in the middle of the answer."""
        return self._stream("/v1/chat/completions", {"model": model, "messages": messages, **parameters})

    def complete(self, model: str, prompt: str, parameters: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """The continuation of a text. Raises `PageError`, also in the middle of it."""
        return self._stream("/v1/completions", {"model": model, "prompt": prompt, **parameters})

    async def instruct(
        self, model: str, instruction: str, input: str, parameters: Mapping[str, Any]
    ) -> AsyncIterator[Piece]:
        """The answer to an instruction and its input, which the server puts into the model's template.

        A server without ``/generate`` is sent both as one message. Raises `PageError`.
        """
        body = {"model": model, "instruction": instruction, "input": input, "parameters": dict(parameters)}
        try:
            async for chunk in self._chunks("/generate", {**body, "stream": True}):
                text, tokens = chunk.get("generated_text") or "", chunk.get("num_output_tokens_cf") or None
                yield Piece(text, chunk.get("finish_reason"), tokens)
            return
        except PageError as error:
            if error.status not in (404, 405) or error.knowlm:
                raise
        message = f"{instruction}\n\n{input}" if input.strip() else instruction
        yield Piece(remark="instruction_plain")
        async for piece in self.chat(model, [{"role": "user", "content": message}], parameters):
            yield piece

    async def extract(self, model: str, body: Mapping[str, Any], max_tokens: int) -> AsyncIterator[Piece]:
        """What a text holds, see POST /extract; the last piece's text is the result as JSON. Raises `PageError`."""
        wanted = {"model": model, "max_tokens": max_tokens, "stream": True, **body}
        async for chunk in self._chunks("/extract", wanted):
            if chunk.get("object") == "extraction":
                tokens = (chunk.get("usage") or {}).get("completion_tokens")
                yield Piece(json.dumps(chunk), None, tokens)
            else:
                yield Piece(completion_tokens=chunk.get("completion_tokens") or None)

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Piece]:
        async for chunk in self._chunks(path, {**body, "stream": True, "stream_options": {"include_usage": True}}):
            if piece := _piece(chunk):
                yield piece

    async def _chunks(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The objects of a stream."""
        async with self._client() as client, self._response(client, "POST", path, body) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise PageError(f"{self.root}{path} did not answer with a stream", response.status_code)
            async for data in event_data(response.aiter_bytes()):
                if data == "[DONE]":
                    return
                chunk = _json_object(data.encode())
                if chunk.get("error"):
                    raise _error(chunk, response)
                yield chunk

    def _client(self) -> httpx.AsyncClient:
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        return httpx.AsyncClient(timeout=timeout, headers=self.headers, trust_env=self.proxies)

    @asynccontextmanager
    async def _response(
        self, client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with client.stream(method, self.root + path, json=body) as response:
                if response.status_code >= 400:
                    raise _error(_json_object(await response.aread()), response)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PageError(f"{self.root}: {str(error) or type(error).__name__}") from error


async def event_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, in whatever pieces the bytes come.

    Only the line ends of the format count: U+2028 inside an answer is text, which `Response.aiter_lines` would cut.
    """
    rest, data = b"", []
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode("utf-8", "replace")
                data = []


def _piece(chunk: dict[str, Any]) -> Piece | None:
    """What one chunk of a completion or chat completion brings; None for nothing."""
    choice: dict[str, Any] = next(iter(chunk.get("choices") or []), {})
    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    tokens = (chunk.get("usage") or {}).get("completion_tokens")
    piece = Piece(text, choice.get("finish_reason"), tokens)
    return piece if piece != Piece() else None


def _model(row: dict[str, Any]) -> Model:
    stated = row.get("capabilities")
    capabilities = frozenset(map(str, stated)) if isinstance(stated, list) else None
    return Model(str(row["id"]), capabilities, str(row.get("engine") or ""), row.get("chat") is not False)


def _json_object(text: bytes) -> dict[str, Any]:
    """A JSON object; what is none becomes the message of an error."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"error": text.decode("utf-8", "replace").strip()[:500]}


def _error(body: dict[str, Any], response: httpx.Response) -> PageError:
    """OpenAI's envelope, or what others send in its place."""
    error = body.get("error") or body.get("detail") or body.get("message") or response.reason_phrase
    fields = error if isinstance(error, dict) else {"message": str(error)}
    status = response.status_code if response.status_code >= 400 else 500  # in the middle of a stream
    return PageError(
        str(fields.get("message") or response.reason_phrase),
        status,
        str(fields.get("code") or fields.get("type") or ""),
        str(fields.get("param") or ""),
        response.headers.get("retry-after", ""),
        "generated_text" in body,
    )
