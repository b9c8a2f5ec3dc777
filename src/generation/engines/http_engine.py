"""What engines behind an HTTP server on token level have in common: ids go out, ids come back as server-sent events.

The text is made of the ids here, so half characters, stop texts and end tokens are treated alike on every engine.
"""

import asyncio
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from src.errors import UserError
from src.generation.engine import (
    Capability,
    EngineDown,
    Event,
    FinishReason,
    Request,
    TokenLogprob,
    asked,
    check_capabilities,
    completed,
    generate_in_thread,
)
from src.generation.engines.server_process import ServerProcess
from src.generation.prompts import EncodedPrompt, PromptEncoder
from src.generation.text_stream import TextStream


@dataclass
class Piece:
    """What one server-sent event brought: new token ids, their log probabilities, and whether it was the last.

    text: of the event, where its ids may not be all of them: then it counts, and ``tokens`` is how many there are by
        now.
    """

    ids: Sequence[int] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    text: str | None = None
    tokens: int = 0


class HttpEngine(ABC):
    """An engine whose server takes token ids. A subclass says how to ask and how to read the answer.

    Args:
        server: the process that answers.
        prompts: encodes the requests.
        adapters: names that requests may ask for.
        max_parallel: requests the server works on at a time.
    """

    name = ""
    capabilities: frozenset[Capability] = frozenset()
    path = ""

    def __init__(
        self, server: ServerProcess, prompts: PromptEncoder, adapters: Sequence[str] = (), max_parallel: int = 8
    ):
        self.server, self.prompts, self.max_parallel = server, prompts, max_parallel
        self.default_adapter: str | None = None  # for requests that name none
        self.adapters: Sequence[str] = tuple(adapters)
        self.context_length = prompts.context_length
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    @abstractmethod
    def body(self, request: Request, prompt: EncodedPrompt) -> dict[str, Any]:
        """The JSON that asks the server for this answer, as a stream."""

    @abstractmethod
    def piece(self, data: dict[str, Any]) -> Piece:
        """What one event of the server says."""

    def headers(self) -> dict[str, str]:
        """HTTP headers of every request."""
        return {}

    def check(self, request: Request) -> int:
        """See `Engine.check`."""
        check_capabilities(self, request)
        return len(self.prompts.encode(request).ids)

    def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        return self.server.is_ready()

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """See `Engine.generate`."""
        return generate_in_thread(self, requests)

    def close(self) -> None:
        """End the server."""
        self.server.close()

    async def release(self) -> None:
        """Close the connections of this event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        """See `Engine.stream`. Leaving it closes the connection, and the server stops computing."""
        check_capabilities(self, request)
        request = replace(request, adapter=request.adapter or self.default_adapter)
        prompt = await asyncio.to_thread(self.prompts.encode, request)  # a long one takes a while
        text = TextStream(self.prompts.tokenizer, prompt.stop)
        tokens, how = 0, request.decoding
        async for piece in self._pieces(self.body(request, prompt)):
            delta, finish = "", piece.finish_reason
            taken = 0
            for token in piece.ids:
                tokens += 1
                if token in prompt.end_ids:
                    finish = "stop"
                    break
                taken += 1
                if piece.text is None:
                    delta += text.push(token)
                if text.stopped:
                    finish = "stop"
                    break
            if piece.text is not None:
                delta, tokens = text.push_text(piece.text, piece.ids), max(tokens, piece.tokens)
                finish = "stop" if text.stopped else finish
            if finish is not None:
                delta += text.finish()
                finish = "stop" if text.stopped else finish
                delta += completed(text.text, how, self.name) if finish == "length" else ""
            if delta or finish or piece.logprobs:
                yield Event(request.id, delta, finish, len(prompt.ids), tokens, asked(piece.logprobs[:taken], how))
            if finish is not None:
                return
        raise EngineDown(f"the {self.name} engine ended an answer without saying why")

    async def _pieces(self, body: dict[str, Any]) -> AsyncIterator[Piece]:
        import aiohttp

        address = self.server.require()
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),  # a left stream's connection is of no use
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                read_bufsize=2**24,  # an event is a line, and aiohttp refuses longer lines than this
            )
            self._sessions[loop] = session
        try:
            post = session.post(address + self.path, data=orjson.dumps(body), headers=self._headers())
            async with post as response:
                if response.status != 200:
                    raise _refusal(self.name, response.status, await response.read())
                if response.content_type == "application/json":
                    yield self.piece(orjson.loads(await response.read()))
                    return
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        data = orjson.loads(line[6:])
                        if "error" in data:
                            raise _refusal(self.name, int(data["error"].get("code") or 500), line[6:])
                        yield self.piece(data)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EngineDown(f"the {self.name} engine broke off", f"{error or type(error).__name__}") from error

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **self.headers()}


def _refusal(name: str, status: int, body: bytes) -> Exception:
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    if 400 <= status < 500 and status not in (401, 403, 404, 408, 429):
        return UserError(f"the {name} engine refuses the request: {message}")
    return EngineDown(f"the {name} engine failed ({status})", str(message))


def finite(logprob: float | None) -> float:
    """A log probability as JSON can say it: none, and the logarithm of 0, are -9999 as in the OpenAI API."""
    return -9999.0 if logprob is None or math.isinf(logprob) or math.isnan(logprob) else float(logprob)
