"""How the server is: alive, ready, which version, and what it has counted."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from src.serving.errors import ApiError
from src.serving.gateway import Gateway
from src.serving.metrics import CONTENT_TYPE
from src.serving.replies import JSON_HEADERS
from src.serving.routes.generating import ERRORS

DOWN: dict[int | str, dict[str, Any]] = {503: {"description": "no"}}


def routes(gateway: Gateway) -> APIRouter:
    """/health, /ready, /version, /metrics."""
    router = APIRouter()

    @router.get("/health", responses=DOWN, response_model=None)
    async def health() -> Response:
        """200 while the process lives and no engine has been down for long: fit for a liveness probe."""
        engines = {model.id: "ready" if model.engine.is_ready() else "down" for model in gateway.models}
        well = gateway.is_healthy()
        return _json({"status": "ok" if well else "engine down", "models": engines}, 200 if well else 503)

    @router.get("/ready", responses=DOWN, response_model=None)
    async def ready() -> Response:
        """200 while requests are taken; 503 while an engine is being started again and while the server ends."""
        is_ready = gateway.is_ready()
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    @router.get("/version", responses=ERRORS)
    async def version() -> dict[str, Any]:
        """Version of the server and the engines of its models."""
        return {"version": package_version(), "engines": {model.id: model.engine.name for model in gateway.models}}

    @router.get("/metrics", responses=ERRORS, response_model=None, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        if gateway.settings.metrics == "off":
            raise ApiError(404, "metrics are switched off: set metrics=keys")
        return Response(gateway.metrics.text(gateway.models), media_type=CONTENT_TYPE)

    return router


def package_version() -> str:
    """Version of this project; 0 where it is not installed."""
    try:
        return version("knowlm-lightning")
    except PackageNotFoundError:
        return "0"


def _json(body: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(body), status, headers=JSON_HEADERS)
