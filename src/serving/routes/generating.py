"""What the routes that generate share: limits of the key, the deadline, and the way from a body to a reply."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.routing import APIRoute

from src.serving.access_log import Trace
from src.serving.asking import Asked, check
from src.serving.errors import ApiError, api_error
from src.serving.gateway import Gateway
from src.serving.replies import Reply
from src.serving.schemas import Asking
from src.serving.served import Catalogue
from src.serving.settings import Settings
from src.serving.shapes import Shape

AskingT = TypeVar("AskingT", bound=Asking)
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request is wrong, or asks for what the engine can't do"},
    401: {"description": "no API key, or one that is not known"},
    403: {"description": "without keys only this machine is served"},
    404: {"description": "no such model"},
    408: {"description": "the body came too slowly"},
    413: {"description": "the body is too large"},
    415: {"description": "the body is not JSON"},
    429: {"description": "the line is full, or the key's limit is reached; see Retry-After"},
    500: {"description": "the server failed"},
    503: {"description": "the engine is down, the line too slow, or the server about to end; see Retry-After"},
    504: {"description": "not ready within the time limit"},
}


class StrictRequest(Request):
    """Reads JSON as the standard has it: no NaN, no half surrogate, no depth that exhausts the stack."""

    async def json(self) -> Any:
        """The body."""
        return orjson.loads(await self.body())


class StrictRoute(APIRoute):
    """A route whose bodies `StrictRequest` reads."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See `APIRoute`."""
        original = super().get_route_handler()

        async def handler(request: Request) -> Any:
            return await original(StrictRequest(request.scope, request.receive))

        return handler


async def asked_by(body: AskingT, ask: Callable[[AskingT, Catalogue, Settings], Asked], gateway: Gateway) -> Asked:
    """What a body wants; a schema, whose check takes long, is read in a thread. Raises `ApiError`."""
    if body.response_format is None:
        return ask(body, gateway.models, gateway.settings)
    return await asyncio.to_thread(ask, body, gateway.models, gateway.settings)


async def reply(
    gateway: Gateway, request: Request, asked: Asked, shape: Shape, prompt_param: str, prompt: Any
) -> Reply:
    """Put a request in line.

    Args:
        prompt_param: key of the body that has the prompt, for errors.
        prompt: for the access log where prompts are logged.

    Raises:
        ApiError: 400, 429.
        EngineDown: the engine can't answer now.
    """
    with charged(gateway, request):
        return await begun(gateway, request, asked, shape, prompt_param, prompt)


async def begun(
    gateway: Gateway, request: Request, asked: Asked, shape: Shape, prompt_param: str, prompt: Any
) -> Reply:
    """See `reply`, inside of `charged`."""
    trace: Trace = request.scope["trace"]
    trace.model, trace.stream = asked.served.id, asked.stream
    if gateway.settings.log_prompts:
        trace.prompt = prompt
    deadline_s = _deadline_s(request, gateway.settings.request_timeout_s)
    counts = await check(asked, prompt_param)
    key = trace.key or ""
    return Reply(gateway, asked, shape, trace, sum(counts), deadline_s, lambda: leave(gateway, key, trace))


@contextmanager
def charged(gateway: Gateway, request: Request) -> Iterator[None]:
    """The limits of the key, until there is a reply, which then leaves them itself. Raises 429."""
    trace: Trace = request.scope["trace"]
    key = trace.key or ""
    gateway.limits.enter(key)
    try:
        yield
    except BaseException as error:
        is_wrong = api_error(error, trace.id).status == 400  # reading the prompt was work all the same
        gateway.limits.leave(key, 0, refund=not is_wrong)
        raise


def leave(gateway: Gateway, key: str, trace: Trace) -> None:
    """Charge a key for what its request used."""
    gateway.limits.leave(key, trace.prompt_tokens + trace.completion_tokens)


def _deadline_s(request: Request, most: float) -> float:
    given = request.headers.get("x-request-timeout")
    if given is None:
        return most
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ApiError(
            400,
            f"the header X-Request-Timeout is '{given[:50]}': give seconds above 0",
            param="X-Request-Timeout",
            code="invalid_value",
        )
    return min(seconds, most)
