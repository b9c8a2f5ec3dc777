"""From the keys of a body to a `Decoding`: the OpenAI API's defaults, or those of the server's preset.

Temperature 0 (or top_p 0) means the likeliest token; top_p, top_k, min_p and seed then change nothing and may be given.
Beam search draws nothing either, but whoever asks for it together with them has misunderstood one of the two: 400.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from src.errors import UserError
from src.generation.engine import Decoding, Engine
from src.serving.errors import ApiError, unsupported
from src.serving.schemas import ResponseFormat, Sampling
from src.serving.settings import Settings

GREEDY_BELOW = 1e-5  # a temperature so low gives the likeliest token, up to rounding
MAX_STOP_CHARACTERS = 500
MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH = 65_536, 64  # what a schema's check takes time and stack for
NEUTRAL: dict[str, tuple[Any, ...]] = {"temperature": (0, 1), "top_p": (1,), "top_k": (-1, 0), "min_p": (0,)}


def decoding_of(
    body: Sampling,
    settings: Settings,
    max_new_tokens: int,
    vocabulary: int | None = None,
    json_schema: Mapping[str, Any] | None = None,
    logprobs: int | None = None,
) -> Decoding:
    """How a body wants its tokens chosen.

    Args:
        max_new_tokens: from `token_limit`.
        vocabulary: ids below this one exist; None where only another server knows.

    Raises:
        ApiError: 400 with the parameter that can't be met.
    """
    preset = settings.decoding

    def value(name: str, default: Any) -> Any:
        given = getattr(body, name)
        return given if given is not None else getattr(preset, name) if preset is not None else default

    beams = value("num_beams", 1)
    if body.num_beams is None and body.temperature:
        beams = 1  # of the preset: who gives a temperature wants to draw
    if body.temperature is not None:
        temperature = body.temperature
    else:
        temperature = (preset.temperature if preset.do_sample else 0.0) if preset is not None else 1.0
    if beams > 1:
        _refuse_drawing(body)
    top_p = value("top_p", 1.0)
    drawn: dict[str, Any] = {}
    if beams == 1 and temperature >= GREEDY_BELOW and top_p > 0:
        drawn = {
            "do_sample": True,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": max(0, value("top_k", 0)),
            "min_p": value("min_p", 0.0),
            "seed": value("seed", None),
        }
    chosen: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "num_beams": beams,
        "repetition_penalty": value("repetition_penalty", 1.0),
        "presence_penalty": value("presence_penalty", 0.0),
        "frequency_penalty": value("frequency_penalty", 0.0),
        "logit_bias": _biases(body.logit_bias, vocabulary),
        "stop": _stops(body.stop, settings.max_stop) if body.stop is not None else value("stop", ()),
        "json_schema": json_schema,
        "logprobs": logprobs,
        "ignore_eos": bool(value("ignore_eos", False)),
    }
    try:
        return Decoding(**chosen, **drawn)
    except UserError as error:  # of settings that exclude each other; their ranges are those of the schema
        message = str(error).replace("decoding.", "")
        if message.startswith("json_schema"):
            raise ApiError(400, message, param="response_format", code="invalid_value") from error
        raise unsupported(message, "num_beams") from error


def check_preset(settings: Settings, engines: Sequence[Engine]) -> None:
    """Refuse a preset that an engine can't follow, which every request would be told. Raises `UserError`."""
    needs = settings.decoding.needs() if settings.decoding is not None else {}
    for engine in engines:
        if lacking := [name for need, name in needs.items() if need not in engine.capabilities]:
            raise UserError(
                f"the server's decoding sets {lacking[0]}, which the {engine.name} engine can't do: choose another "
                f"decoding=, set decoding.{lacking[0]} back, or serve with another engine="
            )


def token_limit(given: int | None, settings: Settings, context_length: int, default: int, param: str) -> int:
    """The most tokens of an answer. ``default`` where none is given; 0 for as many as the context leaves."""
    limit = settings.max_tokens_limit
    if given is None:
        preset = settings.decoding.max_new_tokens if settings.decoding is not None else 0
        found = preset or default or context_length or Decoding.max_new_tokens
        return min(found, limit) if limit else found
    if limit and given > limit:
        raise ApiError(
            400, f"{param} is {given}: this server writes at most {limit} tokens", param=param, code="invalid_value"
        )
    return given


def schema_of(wanted: ResponseFormat | None) -> Mapping[str, Any] | None:
    """The JSON schema that an answer must follow; None for plain text."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        param = "response_format.json_schema" + (".schema" if wanted.json_schema is not None else "")
        raise ApiError(400, f"{param} is missing: give the schema itself", param=param, code="invalid_value")
    check_size(wanted.json_schema.schema_, "response_format")
    return wanted.json_schema.schema_


def check_size(schema: Any, param: str) -> None:
    """Refuse a schema that is too large to be looked at. Raises 400."""
    if _depth(schema) > MAX_SCHEMA_DEPTH or len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise ApiError(
            400,
            f"the schema is too large: give at most {MAX_SCHEMA_BYTES} bytes and {MAX_SCHEMA_DEPTH} levels of brackets",
            param=param,
            code="invalid_value",
        )


def _depth(value: Any) -> int:
    """Levels of brackets."""
    depth, level = 0, [value]
    while level := [entry for entry in level if isinstance(entry, (dict, list))]:
        depth += 1
        level = [inner for entry in level for inner in (entry.values() if isinstance(entry, dict) else entry)]
    return depth


def _refuse_drawing(body: Sampling) -> None:
    for name, neutral in NEUTRAL.items():
        given = getattr(body, name)
        if given is not None and given not in neutral:
            raise unsupported(
                f"{name} is {given}, and beam search does not draw: leave it out or set num_beams to 1", name
            )


def _stops(stop: str | list[str], most: int) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop
    if len(texts) > most:
        raise ApiError(400, f"stop has {len(texts)} texts: give at most {most}", param="stop", code="invalid_value")
    if any(not text or len(text) > MAX_STOP_CHARACTERS for text in texts):
        message = f"stop has a text that is empty or longer than {MAX_STOP_CHARACTERS} characters: change or drop it"
        raise ApiError(400, message, param="stop", code="invalid_value")
    return texts


def _biases(given: Mapping[str, float] | None, vocabulary: int | None) -> dict[int, float]:
    biases = {}
    for key, bias in (given or {}).items():
        if not (key.isascii() and key.isdigit()) or (vocabulary is not None and int(key) >= vocabulary):
            known = f"a token id below {vocabulary}" if vocabulary is not None else "a token id"
            message = f"logit_bias has the key '{key[:50]}': it must be {known}"
            raise ApiError(400, message, param="logit_bias", code="invalid_value")
        biases[int(key)] = bias
    return biases
