"""What every request passes before a route sees it: an id, the key, the size, the type, and whether we still serve.

It also writes the access log and the counters when a request has ended, however it ended, and turns exceptions that
nobody expected into a 500 that names the request's id. Paths are closed to strangers unless they are listed as open.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from src.serving.access_log import Trace
from src.serving.errors import ApiError, api_error
from src.serving.gateway import Gateway, draining
from src.serving.replies import CLIENT_GONE, AsgiMessage, Receive, Send, error_response
from src.serving.settings import on_loopback

log = logging.getLogger(__name__)

App = Callable[[Any, Receive, Send], Awaitable[None]]

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
ALWAYS = frozenset({"/health", "/ready", "/is_ready"})  # open, and answered while draining
OPEN = ALWAYS | {"/", "/openapi.json", "/favicon.ico", "/ui"}
OPEN_BELOW = "/ui/"  # the web page, which asks its user for the key
ANYBODY = "anybody"  # the key's name where there are no keys


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, gateway: Gateway):
        self.app, self.gateway, self.settings = app, gateway, gateway.settings

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace = self._trace(scope)
        scope["trace"] = trace
        is_page = scope["path"] == "/ui" or scope["path"].startswith(OPEN_BELOW)

        async def noting(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", trace.id.encode("ascii"))]
            await send(message)

        counted = not is_page and scope["path"] not in ALWAYS
        self.gateway.in_flight += counted
        try:
            await self._guarded(scope, receive, noting, trace)
        finally:
            self.gateway.in_flight -= counted
            if not is_page:
                self._finish(scope, trace)

    async def _guarded(self, scope: Any, receive: Receive, send: Send, trace: Trace) -> None:
        path = scope["path"]
        try:
            if self.settings.checks_host:
                _check_host(_header(scope, b"host"))
            if path not in OPEN and not path.startswith(OPEN_BELOW):
                trace.key = self._owner(scope)
                if self.gateway.draining and path != "/metrics":
                    raise draining()
                self._check_body(scope)
                receive = _again(await self._body(receive), receive)
            await self.app(scope, receive, send)
        except ApiError as error:
            trace.error = error.code
            trace.aborted = CLIENT_GONE if error.code == CLIENT_GONE else None
            await error_response(error, path)(scope, receive, send)
        except asyncio.CancelledError:
            if not self.gateway.draining:
                raise
            trace.aborted = trace.aborted or "draining"  # uvicorn ends what is left
        except Exception as error:
            log.exception("request %s failed", trace.id)
            trace.error = "internal_error"
            if not trace.status:
                await error_response(api_error(error, trace.id), path)(scope, receive, send)

    def _trace(self, scope: Any) -> Trace:
        given = _header(scope, b"x-request-id")
        identity = given if given is not None and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        client = scope.get("client")
        return Trace(identity, scope["method"], scope["path"], client[0] if client else None)

    def _owner(self, scope: Any) -> str:
        """Name of the key. Raises 401."""
        keys = self.settings.keys
        if not len(keys) or (scope["path"] == "/metrics" and self.settings.metrics == "open"):
            return ANYBODY
        scheme, _, bearer = (_header(scope, b"authorization") or "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else _header(scope, b"x-api-key")
        if not key:
            raise ApiError(
                401,
                "there is no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                code="no_api_key",
            )
        owner = keys.owner(key)
        if owner is None:
            raise ApiError(401, "this API key is not known: check it", code="invalid_api_key")
        return owner

    def _check_body(self, scope: Any) -> None:
        """Refuse a body by its headers. Raises 413, 415."""
        length = _header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > self.settings.max_body_bytes:
            raise self._too_large()
        has_body = (length or "0") != "0" or _header(scope, b"transfer-encoding") is not None
        kind = (_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and has_body and kind != "application/json":
            raise ApiError(415, f"the body is '{kind or 'of no type'}': send JSON with Content-Type: application/json")

    async def _body(self, receive: Receive) -> bytes:
        """The whole body. Raises 413, 408."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the connection ended before the body did", code=CLIENT_GONE)
                    body += message.get("body", b"")
                    if len(body) > self.settings.max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            seconds = self.settings.body_timeout_s
            raise ApiError(408, f"the body did not come within {seconds:g} seconds", code="body_timeout") from None

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.settings.max_body_bytes} bytes: send less at a time")

    def _finish(self, scope: Any, trace: Trace) -> None:
        route = scope.get("route")
        trace.route = getattr(route, "path", trace.route)
        metrics = self.gateway.metrics
        if trace.aborted is not None:
            metrics.aborted.labels(trace.aborted).inc()
        elif trace.error is not None:
            metrics.rejected.labels(trace.error).inc()
        if trace.aborted == CLIENT_GONE:
            trace.status = 499  # nobody saw the other one
        metrics.requests.labels(trace.route, str(trace.status)).inc()
        metrics.seconds.labels(trace.route).observe(trace.seconds)
        self.gateway.log.write(trace)


def _header(scope: Any, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand out a body that was read already; what follows is the end of the connection."""
    read = False

    async def receive_again() -> AsgiMessage:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _check_host(host: str | None) -> None:
    """Refuse a name that is not this machine's; see `Settings.checks_host`. Raises 403."""
    given = host or ""
    name = given[1:].partition("]")[0] if given.startswith("[") else given.partition(":")[0]
    if not on_loopback(name.lower()):
        raise ApiError(
            403,
            f"the request is for the host '{name[:100]}', and without API keys only this machine is served: "
            "use 127.0.0.1, or serve with keys",
            code="foreign_host",
        )
