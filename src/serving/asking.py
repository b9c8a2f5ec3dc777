"""From the body of a request to what engines take: a model and one `Request` for each answer that is wanted."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from src.errors import UserError
from src.generation.engine import Decoding, PromptTooLong, Request, Unsupported
from src.generation.prompts import PromptEncoder
from src.models.templates import Message
from src.serving.errors import ApiError, unsupported
from src.serving.sampling import decoding_of, schema_of, token_limit
from src.serving.schemas import (
    Asking,
    Body,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    KnowLMRequest,
    StreamOptions,
)
from src.serving.served import Catalogue, ServedModel
from src.serving.settings import Settings

COMPLETION_TOKENS = 16  # where /v1/completions and /generate are told no number
LONG_CHARACTERS = 20_000  # prompts beyond this are tokenized in a thread, so that streams go on meanwhile
HARMLESS = {  # keys of the OpenAI API that ask for nothing that an answer would lack
    *("metadata", "parallel_tool_calls", "prediction", "prompt_cache_key", "reasoning_effort", "safety_identifier"),
    *("service_tier", "store", "user", "verbosity"),
}
REFUSED = {  # keys known from OpenAI, vLLM and llama.cpp whose neglect would give another answer than was asked for
    *("allowed_token_ids", "audio", "bad_words", "chat_template", "chat_template_kwargs", "function_call", "grammar"),
    *("guided_choice", "guided_grammar", "guided_json", "guided_regex", "length_penalty", "min_tokens", "mirostat"),
    *("prompt_logprobs", "stop_token_ids", "structured_outputs", "typical_p", "web_search_options"),
}


@dataclass(frozen=True)
class Asked:
    """What one HTTP request wants.

    Args:
        requests: answer j to prompt i is the one with number i * n + j.
        echoes: for each prompt the text that goes before its answers.
        places: answers that may be in line or at work at a time; None for all.
    """

    id: str
    served: ServedModel
    requests: Sequence[Request]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None
    echoes: Sequence[str] = field(default=())
    places: int | None = None

    @property
    def prompts(self) -> Sequence[Request]:
        """One request of each prompt."""
        return self.requests[:: self.n]


def chat(body: ChatRequest, models: Catalogue, settings: Settings) -> Asked:
    """What POST /v1/chat/completions wants. Raises `ApiError`."""
    check_keys(body, settings)
    if body.tools or body.functions or body.tool_choice not in (None, "none", "auto"):
        name = "tools" if body.tools else "functions" if body.functions else "tool_choice"
        raise unsupported(f"{name}: tools are not offered yet; leave it out", name)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs", code="invalid_value")
    served = models.find(body.model)
    messages = conversation(body.messages, settings)
    check_talks(served)
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    given = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    limit = token_limit(given, settings, served.engine.context_length, settings.default_max_tokens, param)
    tops = (body.top_logprobs or 0) if body.logprobs else None
    decoding = decoding_of(body, settings, limit, vocabulary(served), schema_of(body.response_format), tops)
    return _asked("chatcmpl", served, [{"messages": messages}], decoding, body, settings, tops)


def completion(body: CompletionRequest, models: Catalogue, settings: Settings) -> Asked:
    """What POST /v1/completions wants. Raises `ApiError`."""
    check_keys(body, settings)
    if body.suffix:
        raise unsupported("suffix: text is only continued at its end; leave it out", "suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise unsupported("best_of: every answer is returned; leave it out and give n", "best_of")
    if body.echo and body.logprobs is not None:
        raise unsupported("echo with logprobs: log probabilities of prompts are not offered; drop one", "echo")
    served = models.find(body.model)
    prompts = _prompts(body.prompt, settings)
    engine = served.engine
    limit = token_limit(body.max_tokens, settings, engine.context_length, COMPLETION_TOKENS, "max_tokens")
    decoding = decoding_of(body, settings, limit, vocabulary(served), schema_of(body.response_format), body.logprobs)
    asked = _asked("cmpl", served, prompts, decoding, body, settings, body.logprobs)
    return replace(asked, echoes=[_echo(prompt, served) for prompt in prompts]) if body.echo else asked


def knowlm(body: KnowLMRequest, models: Catalogue, settings: Settings) -> Asked:
    """What POST /generate wants. Raises `ApiError`."""
    check_keys(body, settings)
    check_keys(body.parameters, settings)
    served = models.find(body.model)
    check_talks(served)
    if not body.instruction:
        raise ApiError(400, "instruction is empty: say what to do", param="instruction", code="invalid_value")
    asked = body.parameters
    limit = token_limit(
        asked.max_tokens, settings, served.engine.context_length, COMPLETION_TOKENS, "parameters.max_tokens"
    )
    decoding = decoding_of(asked, settings, limit, vocabulary(served))
    message = Message("user", body.instruction, body.input or None)
    request = Request(new_id("gen"), messages=[message], decoding=decoding, adapter=served.adapter)
    return Asked(request.id, served, [request], stream=bool(body.stream or asked.stream))


def conversation(given: Sequence[ChatMessage], settings: Settings) -> list[Message]:
    """The messages of a body as a template takes them. Raises 400."""
    if len(given) > settings.max_messages:
        message = f"messages has {len(given)} entries: this server takes at most {settings.max_messages}"
        raise ApiError(400, message, param="messages", code="invalid_value")
    messages = []
    for number, turn in enumerate(given):
        role = turn.role
        if role == "tool" or role == "function":
            raise unsupported(f"messages[{number}] is of a tool, and tools are not offered yet", f"messages[{number}]")
        if turn.content is None:
            param = f"messages[{number}].content"
            raise ApiError(400, f"{param} is null: give a text", param=param, code="invalid_value")
        messages.append(Message("system" if role == "developer" else role, turn.text))
    return messages


async def check(asked: Asked, param: str) -> list[int]:
    """Number of tokens of each prompt (0 where only another server knows).

    Raises:
        ApiError: 400 where the engine can't meet the request or the prompt is too long.
        EngineDown: the engine can't answer now.
    """

    def counts() -> list[int]:
        return [asked.served.engine.check(request) for request in asked.prompts]

    try:
        if sum(_characters(request) for request in asked.prompts) > LONG_CHARACTERS:
            return await asyncio.to_thread(counts)
        return counts()
    except PromptTooLong as error:
        raise ApiError(400, str(error), param=param, code="context_length_exceeded") from error
    except Unsupported:
        raise
    except UserError as error:
        raise ApiError(400, str(error), param=param, code="invalid_value") from error


def check_talks(served: ServedModel) -> None:
    """Refuse messages for a model without a template. Raises 400."""
    if not served.talks:
        raise ApiError(
            400,
            f"the model '{served.id}' has no prompt template: use /v1/completions, or serve it with template=alpaca",
            param="model",
            code="no_template",
        )


def vocabulary(served: ServedModel) -> int | None:
    """How many tokens a model knows; None where only another server knows."""
    prompts = getattr(served.engine, "prompts", None)
    return len(prompts.tokenizer) if isinstance(prompts, PromptEncoder) else None


def new_id(kind: str) -> str:
    """An id that no other answer has."""
    return f"{kind}-{uuid.uuid4().hex}"


def _asked(
    kind: str,
    served: ServedModel,
    prompts: Sequence[Mapping[str, Any]],
    decoding: Decoding,
    body: Asking,
    settings: Settings,
    logprobs: int | None,
) -> Asked:
    """The requests for n answers to each prompt; with a seed, the answers of one prompt have different ones."""
    n = body.n or 1
    if n > settings.max_n:
        raise ApiError(400, f"n is {n}: this server writes at most {settings.max_n}", param="n", code="invalid_value")
    options = body.stream_options or StreamOptions()
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options", code="invalid_value")
    identity = new_id(kind)
    requests: list[Request] = []
    for prompt in prompts:
        for number in range(n):
            own = replace(decoding, seed=decoding.seed + number) if decoding.seed is not None else decoding
            name = f"{identity}-{len(requests)}"
            requests.append(Request(name, **prompt, decoding=own, adapter=served.adapter))
    return Asked(identity, served, requests, n, bool(body.stream), bool(options.include_usage), logprobs)


def _prompts(given: str | Sequence[Any], settings: Settings) -> list[dict[str, Any]]:
    """Each prompt as the argument of a `Request`. Raises 400."""
    if isinstance(given, str):
        return [{"prompt": given}]
    if given and all(isinstance(entry, int) for entry in given):
        return [{"prompt_ids": list(given)}]
    if not given or len(given) > settings.max_prompts:
        message = f"prompt has {len(given)} entries: give between 1 and {settings.max_prompts}"
        raise ApiError(400, message, param="prompt", code="invalid_value")
    return [{"prompt": entry} if isinstance(entry, str) else {"prompt_ids": entry} for entry in given]


def _echo(prompt: Mapping[str, Any], served: ServedModel) -> str:
    if "prompt" in prompt:
        return str(prompt["prompt"])
    return str(served.encoder().tokenizer.decode(prompt["prompt_ids"], clean_up_tokenization_spaces=False))


def _characters(request: Request) -> int:
    if request.messages is not None:
        return sum(len(message.text) for message in request.messages)
    return len(request.prompt or "")


def check_keys(body: Body, settings: Settings) -> None:
    """Refuse keys that are known and not offered; where the server is strict, those that nobody knows too."""
    extra = body.model_extra or {}
    if refused := sorted(key for key in extra if key in REFUSED and extra[key] not in (None, False, {}, [])):
        raise unsupported(f"{refused[0]} is not offered: leave it out", refused[0])
    if settings.strict and (unknown := sorted(set(extra) - HARMLESS - REFUSED)):
        raise ApiError(
            400, f"'{unknown[0][:50]}' is not a known parameter", param=unknown[0][:50], code="unknown_parameter"
        )
