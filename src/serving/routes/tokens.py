"""Text to the model's tokens and back, without generating."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from src.errors import UserError
from src.generation.engine import Decoding, Request
from src.generation.prompts import PromptEncoder
from src.serving import asking
from src.serving.errors import ApiError
from src.serving.gateway import Gateway
from src.serving.routes.generating import ERRORS, StrictRoute
from src.serving.schemas import DetokenizeRequest, TokenizeRequest


def routes(gateway: Gateway) -> APIRouter:
    """/tokenize and /detokenize."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/tokenize", responses=ERRORS)
    async def tokenize(body: TokenizeRequest, request: HttpRequest) -> dict[str, Any]:
        """The ids that the model would be given for a text, or for a conversation."""
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt", code="invalid_value")
        served = gateway.models.find(body.model)
        encoder = served.encoder()
        with _limited(gateway, request):
            if body.messages is not None:
                asking.check_talks(served)
                messages = asking.conversation(body.messages, gateway.settings)
                ids = await _encoded(encoder, Request("tokenize", messages=messages, decoding=Decoding()), "messages")
            else:
                ids = await _encoded(encoder, Request("tokenize", prompt=body.prompt), "prompt") if body.prompt else []
        return {"tokens": ids, "count": len(ids), "max_model_len": served.engine.context_length or None}

    @router.post("/detokenize", responses=ERRORS)
    async def detokenize(body: DetokenizeRequest, request: HttpRequest) -> dict[str, Any]:
        """The text of token ids."""
        tokenizer = gateway.models.find(body.model).encoder().tokenizer
        if bad := next((number for number in body.tokens if number >= len(tokenizer)), None):
            message = f"token id {bad} is not in the vocabulary of {len(tokenizer)}"
            raise ApiError(400, message, param="tokens", code="invalid_value")
        with _limited(gateway, request):
            text = await asyncio.to_thread(tokenizer.decode, body.tokens, clean_up_tokenization_spaces=False)
        return {"prompt": text}

    return router


@contextmanager
def _limited(gateway: Gateway, request: HttpRequest) -> Iterator[None]:
    """The limits of the key. Raises 429."""
    key = request.scope["trace"].key or ""
    gateway.limits.enter(key)
    try:
        yield
    finally:
        gateway.limits.leave(key, 0)


async def _encoded(encoder: PromptEncoder, request: Request, param: str) -> list[int]:
    try:
        return (await asyncio.to_thread(encoder.encode, request)).ids
    except UserError as error:
        raise ApiError(400, str(error), param=param, code="invalid_value") from error
