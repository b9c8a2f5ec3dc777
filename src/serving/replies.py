"""From a job to bytes on the wire: a JSON body, or server-sent events while the answer is written.

A reply watches its client. When the client goes away, or takes nothing for too long, the job is closed and the engine
stops computing; that holds for streams and plain requests alike. Before the first byte an error is a status with a
body; afterwards it is the last event of the stream.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import Response

from src.serving.access_log import Trace
from src.serving.asking import Asked
from src.serving.errors import ApiError
from src.serving.gateway import Gateway
from src.serving.job import Job
from src.serving.shapes import Answer, Shape, joined, knowlm_body, usage

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

KNOWLM_PATH = "/generate"  # its errors have KnowLM's shape
CLIENT_GONE = "client_gone"  # in logs and metrics
PIECE = 1 << 15  # bytes that are sent at a time
PING = b": still waiting\n\n"
DONE = b"data: [DONE]\n\n"
JSON_HEADERS = {"Content-Type": "application/json"}
STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def error_body(error: ApiError, path: str) -> dict[str, Any]:
    """The JSON of an error on a route."""
    return knowlm_body("", 0, error.message) if path == KNOWLM_PATH else error.body()


def error_response(error: ApiError, path: str) -> Response:
    """An error as a response."""
    body = orjson.dumps(error_body(error, path))
    return Response(body, error.status, headers={**JSON_HEADERS, **error.headers()})


class Wire:
    """Sends one response, and knows since when its reader has taken nothing."""

    def __init__(self, send: Send):
        self._send = send
        self._sending_since: float | None = None
        self.started = False

    @property
    def stuck_s(self) -> float:
        """Seconds that what is being sent now has been waiting."""
        return 0.0 if self._sending_since is None else time.monotonic() - self._sending_since

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Status and headers."""
        self.started = True
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, content: bytes, more: bool) -> None:
        """A part of the body; a long one in pieces, so that a reader who takes some of it is seen to."""
        for start in range(0, max(1, len(content)), PIECE):
            self._sending_since = time.monotonic()
            last = start + PIECE >= len(content)
            piece = content[start : start + PIECE]
            await self._send({"type": "http.response.body", "body": piece, "more_body": more or not last})
        self._sending_since = None

    async def whole(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        """All of it at once."""
        await self.start(status, {**headers, "Content-Length": str(len(content))})
        await self.body(content, more=False)


class Reply(Response):
    """The response of a route that generates.

    Args:
        prompt_tokens: of all prompts together; 0 where only another server knows.
        deadline_s: seconds from the request's arrival to the last byte.
        done: is called when it has ended, however it did.

    Raises:
        ApiError: 429 where there is no place.
    """

    def __init__(
        self,
        gateway: Gateway,
        asked: Asked,
        shape: Shape,
        trace: Trace,
        prompt_tokens: int,
        deadline_s: float,
        done: Callable[[], None],
    ):
        super().__init__()
        self.done = done
        self.gateway, self.asked, self.shape, self.trace = gateway, asked, shape, trace
        self.answers = [Answer() for _ in asked.requests]
        model = asked.served.id
        self._tokens = gateway.metrics.generation_tokens.labels(model)
        self._inter_token = gateway.metrics.inter_token.labels(model)
        self._latest = [0.0] * len(self.answers)
        self.job: Job = gateway.job(asked, trace, deadline_s)
        self._prompt_tokens = gateway.metrics.prompt_tokens.labels(model)
        self._given_tokens = prompt_tokens

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # type: ignore[override]
        wire = Wire(send)
        work = asyncio.create_task(self._answer(wire))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            self.trace.aborted = await self._until_over(work, gone, wire)
            if work.done():
                await work
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self.gateway.done(self.job)
            if not self.trace.prompt_tokens:  # known only now, where another server counts
                self._count_prompts(usage(self.answers, self.asked.n)["prompt_tokens"])
            self.trace.completion_tokens = sum(answer.completion_tokens for answer in self.answers)
            self.done()
            self.trace.finish_reasons = [answer.finish_reason for answer in self.answers if answer.finish_reason]

    async def _until_over(self, work: "asyncio.Task[None]", gone: "asyncio.Task[None]", wire: Wire) -> str | None:
        """Wait for the end of the answer, or until nobody takes it; returns why it is to be broken off, if so."""
        most = self.gateway.settings.slow_reader_s
        while True:
            over, _ = await asyncio.wait((work, gone), timeout=most / 4, return_when=asyncio.FIRST_COMPLETED)
            if over:
                return self.trace.aborted if work in over else CLIENT_GONE
            if wire.stuck_s > most:
                return "slow_reader"

    async def _answer(self, wire: Wire) -> None:
        try:
            await (self._stream(wire) if self.asked.stream else self._whole(wire))
        except ApiError as error:
            await self._tell(error, wire)

    async def _whole(self, wire: Wire) -> None:
        async with aclosing(self.job.batches()) as batches:
            async for batch in batches:
                for number, piece in joined(batch).items():
                    self._count(number, piece)
                    self.answers[number].extend(piece)
        body = await self._made(lambda: orjson.dumps(self.shape.whole(self.answers)))
        await wire.whole(200, JSON_HEADERS, body)

    async def _stream(self, wire: Wire) -> None:
        async with aclosing(self.job.batches()) as batches:
            async for batch in batches:
                if not wire.started:
                    await wire.start(200, STREAM_HEADERS)
                    if first := _events(self.shape.first()):
                        await wire.body(first, more=True)
                if not batch:
                    await wire.body(PING, more=True)
                    continue
                pieces = joined(batch)
                for number, piece in pieces.items():
                    self._count(number, piece)
                await wire.body(_events(self.shape.part(number, piece) for number, piece in pieces.items()), more=True)
        await wire.body(await self._made(lambda: _events(self.shape.last(self.answers))) + DONE, more=False)

    async def _made(self, make: Callable[[], bytes]) -> bytes:
        """Bytes of a shape, made in a thread where that takes long."""
        return await asyncio.to_thread(make) if self.shape.is_slow else make()

    async def _tell(self, error: ApiError, wire: Wire) -> None:
        self.trace.error = error.code
        path = self.trace.path
        if self.trace.completion_tokens:
            self.trace.aborted = error.code
        if wire.started:
            await wire.body(_events([error_body(error, path)]), more=False)
        else:
            headers = {**JSON_HEADERS, **error.headers()}
            await wire.whole(error.status, headers, orjson.dumps(error_body(error, path)))

    def _count_prompts(self, tokens: int) -> None:
        """Prompts are counted once an answer begins: what waits in vain has cost nothing."""
        self.trace.prompt_tokens = tokens
        self._prompt_tokens.inc(tokens)

    def _count(self, number: int, piece: Answer) -> None:
        if not self.trace.prompt_tokens:
            self._count_prompts(self._given_tokens)
        answer, now = self.answers[number], time.perf_counter()
        new = piece.completion_tokens - answer.completion_tokens
        if new > 0:
            self._tokens.inc(new)
            self.trace.completion_tokens += new
            if self._latest[number]:
                self._inter_token.observe((now - self._latest[number]) / new)
            self._latest[number] = now
        if piece.text and self.trace.first_token_s is None:
            self.trace.first_token_s = now - self.trace.began
            self.gateway.metrics.first_token.labels(self.asked.served.id).observe(self.trace.first_token_s)
        answer.count(piece)


def _events(parts: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(part) + b"\n\n" for part in parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
