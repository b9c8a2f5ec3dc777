"""Runs the application on uvicorn: bind first, serve, and end without breaking off answers.

On SIGTERM or SIGINT /ready turns 503 and new requests are refused, while the server still listens for `drain_min_s` at
least, so that a load balancer sees it. What runs may end within ``drain_s``, the rest is broken off with an error, then
the engines are closed. A second signal ends everything at once.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from src.errors import UserError
from src.serving.gateway import Gateway
from src.serving.settings import Settings

POLL_S = 0.05
LAST_WORDS_S = 2.0  # for sending the errors of what was broken off
KEEP_ALIVE_S = 75  # longer than clients keep an idle connection, so that it is they who close it
SEND_BUFFER = 1 << 16  # bytes of a response that the kernel takes before its reader has them


def bind(host: str, port: int, slow_reader_s: float) -> socket.socket:
    """A socket on this address, before any model is loaded. Raises `UserError` where that can't be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UserError(f"host={host} is not a name or address of this machine ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both: a reader that takes nothing holds little memory, and the kernel cuts it off. Without
        # that it would go unnoticed until the buffers are full, and they would be kept for good.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * slow_reader_s))
        listener.bind(address)
        listener.listen(1)  # a second server on this port fails now; uvicorn sets the length of the line
    except OSError as error:
        listener.close()
        raise UserError(_cannot_bind(host, port, error)) from error
    listener.setblocking(False)
    return listener


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: give another with port=…, or end the program that has it"
    if error.errno == errno.EACCES:
        return f"port {port} is not open to this user: give one above 1023 with port=…"
    return f"the server can't listen on {host}, port {port} ({error.strerror}): give host=127.0.0.1 or another address"


def serve(app: Any, listener: socket.socket) -> None:
    """Serve until a signal, then drain and close the engines. Returns normally; the exit status is then 0."""
    gateway: Gateway = app.state.gateway
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what it says of broken connections, we log better
    try:
        Server(config_of(app, gateway.settings), gateway).run(sockets=[listener])
    finally:
        for engine in gateway.models.engines():
            engine.close()


def config_of(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to run the application."""
    return uvicorn.Config(
        app,
        http=protocol_of(settings.max_connections, settings.body_timeout_s),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # else anybody on this machine could say who they are
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(LAST_WORDS_S),
    )


def protocol_of(max_connections: int, headers_timeout_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP, with a limit of connections, and of the time in which the headers of a request must come."""
    http: Any = AutoHTTPProtocol

    class Bounded(http):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.abort()
            self._wait()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._stop_waiting()
            elif self.waiting is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()  # the beginning of a further request

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self.waiting = self.loop.call_later(headers_timeout_s, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

    return Bounded


class Server(uvicorn.Server):
    """uvicorn's, which drains on the first signal."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway):
        super().__init__(config)
        self.gateway = gateway
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: end; engines in processes of their own end with this one."""
        if self.gateway.draining:
            os._exit(128 + sig)
        self.gateway.draining = True
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        began = time.monotonic()
        await self._until_idle(self.gateway.settings.drain_s)
        self.gateway.abort_all()
        await self._until_idle(LAST_WORDS_S)
        await asyncio.sleep(self.gateway.settings.drain_min_s - (time.monotonic() - began))
        self.should_exit = True

    async def _until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.gateway.in_flight:
                    await asyncio.sleep(POLL_S)
