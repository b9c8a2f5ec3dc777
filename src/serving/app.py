"""The application: the routes of every API over the models it is given, behind one guard.

`src.serving.server` runs it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from src.errors import UserError
from src.generation.engine import EngineDown
from src.serving.errors import ApiError, api_error, invalid_body
from src.serving.gateway import Gateway
from src.serving.guard import Guard
from src.serving.replies import error_response
from src.serving.routes import about, extracting, knowlm, openai, tokens
from src.serving.served import ServedModel
from src.serving.settings import Settings


def create_app(models: Sequence[ServedModel], settings: Settings | None = None) -> FastAPI:
    """The API over these models; ``app.state.gateway`` is what its routes share.

    Raises:
        UserError: no model, two of one name, an adapter that the engine lacks, a log that can't be written.
    """
    settings = settings or Settings()
    gateway = Gateway(models, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for engine in gateway.models.engines():
            await engine.release()
        gateway.log.close()

    app = FastAPI(
        title="KnowLM-Lightning",
        version=about.package_version(),
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    for room in (openai, knowlm, extracting, tokens, about):
        app.include_router(room.routes(gateway))
    app.openapi = lambda: _document(app, gateway)  # type: ignore[method-assign]
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for kind in (ApiError, UserError, EngineDown):
        app.add_exception_handler(kind, _ours)
    app.add_middleware(Guard, gateway=gateway)
    if settings.cors_origins:  # around the guard: its headers go on refusals too, and preflights carry no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's own client sends a dozen; there are no cookies that could come along
            expose_headers=["X-Request-Id", "Retry-After"],
            allow_credentials=False,
        )
    return app


def _document(app: FastAPI, gateway: Gateway) -> dict[str, Any]:
    """The OpenAPI document, with the names of the models that are served."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        names = [model.id for model in gateway.models]
        for schema in document["components"]["schemas"].values():
            if "model" in schema.get("properties", {}):
                schema["properties"]["model"] |= {"anyOf": [{"type": "string", "enum": names}, {"type": "null"}]}
        app.openapi_schema = document
    return app.openapi_schema


def _answer(request: Request, error: ApiError) -> Response:
    trace = request.scope.get("trace")
    if trace is not None:
        trace.error = error.code
    return error_response(error, request.scope["path"])


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(request, invalid_body(error.errors(), error.body))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:100]
    words = {
        404: f"there is no {path} here: see /openapi.json for what there is",
        405: f"{path} does not take {request.method}",
        400: "the body is not JSON",
    }
    response = _answer(request, ApiError(error.status_code, words.get(error.status_code, str(error.detail))))
    response.headers.update(error.headers or {})
    return response


async def _ours(request: Request, error: Exception) -> Response:
    return _answer(request, api_error(error, request.scope["trace"].id))
