"""KnowLM's API: POST /generate with instruction, input and parameters, and GET /is_ready."""

from fastapi import APIRouter, Request

from src.serving import asking
from src.serving.gateway import Gateway
from src.serving.replies import Reply
from src.serving.routes.generating import ERRORS, StrictRoute, reply
from src.serving.schemas import KnowLMRequest
from src.serving.shapes import KnowLMShape


def routes(gateway: Gateway) -> APIRouter:
    """The routes of KnowLM's server."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/generate", responses=ERRORS, response_model=None)
    async def generate(body: KnowLMRequest, request: Request) -> Reply:
        """The answer to an instruction; errors are texts under ``error``."""
        asked = asking.knowlm(body, gateway.models, gateway.settings)
        said = {"instruction": body.instruction, "input": body.input}
        return await reply(gateway, request, asked, KnowLMShape(asked), "instruction", said)

    @router.get("/is_ready")
    async def is_ready() -> bool:
        """Whether requests are taken now."""
        return gateway.is_ready()

    return router
