"""The OpenAI API: models, completions, chat completions."""

from typing import Any

from fastapi import APIRouter, Request

from src.serving import asking
from src.serving.gateway import Gateway
from src.serving.replies import Reply
from src.serving.routes.generating import ERRORS, StrictRoute, asked_by, reply
from src.serving.schemas import ChatRequest, CompletionRequest
from src.serving.shapes import ChatShape, CompletionShape


def routes(gateway: Gateway) -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute)

    @router.get("/models", responses=ERRORS)
    async def models() -> dict[str, Any]:
        """The models and adapters that requests can name."""
        return {"object": "list", "data": [model.card() for model in gateway.models]}

    @router.get("/models/{model_id:path}", responses=ERRORS)
    async def model(model_id: str) -> dict[str, Any]:
        """One model."""
        return gateway.models.find(model_id).card()

    @router.post("/chat/completions", responses=ERRORS, response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Reply:
        """The next turn of a conversation."""
        asked = await asked_by(body, asking.chat, gateway)
        turns = [{"role": turn.role, "content": turn.text} for turn in body.messages]
        return await reply(gateway, request, asked, ChatShape(asked), "messages", turns)

    @router.post("/completions", responses=ERRORS, response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Reply:
        """How a text goes on."""
        asked = await asked_by(body, asking.completion, gateway)
        return await reply(gateway, request, asked, CompletionShape(asked), "prompt", body.prompt)

    return router
