"""Every answer that is not the answer: HTTP status, and the body in the shape of the OpenAI API.

``{"error": {"message": …, "type": …, "param": …, "code": …}}``; KnowLM's own route has its own shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from src.errors import UserError
from src.generation.engine import EngineDown, PromptTooLong, Unsupported

ENGINE_RETRY_S = 5  # what a client is told while an engine is being started again

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    499: "client_closed_request",
    503: "overloaded_error",
    504: "timeout_error",
}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}
BRANCHES = {"str", "int", "float", "bool"}  # in locations of pydantic's errors
MAX_ERRORS = 50  # of a body that are looked at
PARAMETERS = {"json_schema": "response_format", "max_new_tokens": "max_tokens", "adapter": "model"}  # ours: theirs


class ApiError(Exception):
    """An error that the client is told.

    Args:
        status: of HTTP.
        message: a sentence that says what was found and what to do.
        param: the key of the body that is to blame, such as ``messages[0].content``.
        code: a word that programs can look at.
        retry_after_s: goes into the header Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or CODES.get(status)
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """The OpenAI API's word for the kind of error."""
        return TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        headers = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["Connection"] = "close"  # more of the body may be on its way
        return headers


def unsupported(message: str, param: str) -> ApiError:
    """A parameter that is known and can't be met here."""
    return ApiError(400, message, param=param, code="unsupported_parameter")


def api_error(error: BaseException, request_id: str) -> ApiError:
    """What the client is told about any exception; those of ours (500) only by the request's id."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Unsupported):
        return unsupported(str(error), PARAMETERS.get(error.parameter, error.parameter))
    if isinstance(error, PromptTooLong):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, UserError):
        return ApiError(400, str(error), code="invalid_value")
    if isinstance(error, EngineDown):
        return ApiError(503, str(error), code="engine_down", retry_after_s=ENGINE_RETRY_S)
    return ApiError(
        500, f"the server failed; its log says more under the request id {request_id}", code="internal_error"
    )


def invalid_body(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """What is wrong with a body, from the errors of its schema: all that is said about the first bad place.

    Where a value may be one of several kinds, that is the place within it which the last kind found wrong.
    """
    places = [(_place(error.get("loc", ()), body), error) for error in errors[:MAX_ERRORS]]
    first = places[0][0]
    first = next((place for place, _ in places if place != first and place.startswith(first + "[")), first)
    messages = [_message(error) for place, error in places if place == first]
    where = f"{first}: " if first else ""
    return ApiError(400, where + " or ".join(dict.fromkeys(messages)), param=first or None, code="invalid_value")


def _message(error: Mapping[str, Any]) -> str:
    if error.get("type") == "json_invalid":
        return f"the body is not JSON ({error.get('ctx', {}).get('error', 'unreadable')})"
    text = str(error.get("msg", "not valid"))
    return text.removeprefix("Value error, ")


def _place(location: Sequence[Any], body: Any) -> str:
    """``messages[0].content``: a schema error's location without the names of branches, ``str`` or ``list[…]``."""
    path, value = "", body
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif part not in BRANCHES and "[" not in part:
            path += f".{part}" if path else part
            value = value.get(part) if isinstance(value, dict) else None
    return path
