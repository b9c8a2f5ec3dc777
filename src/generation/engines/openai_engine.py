"""Any endpoint that speaks the OpenAI API, by way of OpenAI's own client, which retries what is worth retrying.

The other end has the tokenizer and the template: conversations go to its ``/chat/completions`` as messages, plain
prompts to its ``/completions`` as text. Token counts are those it reports.
"""

import asyncio
import importlib.util
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from src.errors import UserError
from src.generation.engine import (
    Capability,
    EngineDown,
    Event,
    FinishReason,
    PromptTooLong,
    Request,
    TokenLogprob,
    asked,
    check_capabilities,
    completed,
    generate_in_thread,
)
from src.generation.text_stream import BROKEN, StopGate

EXTENSIONS = {
    "top_k": Capability.TOP_K,
    "min_p": Capability.MIN_P,
    "repetition_penalty": Capability.REPETITION_PENALTY,
    "ignore_eos": Capability.IGNORE_EOS,
    "num_beams": Capability.BEAMS,
    "grammar": Capability.GRAMMAR,
}
MOST_STOPS = 4  # that the API takes
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "stop"}


class OpenAIEngine:
    """Asks an endpoint.

    Args:
        base_url: with its version: ``https://host/v1``.
        model: the model's name there.
        api_key: empty where none is needed.
        extensions: settings it takes beyond the API: ``top_k``, ``min_p``, ``repetition_penalty``, ``ignore_eos``,
            ``num_beams``. They go with every request. What is not listed is refused, since an endpoint may ignore what
            it doesn't know; the endpoint's own default applies. And ``grammar``: it is a vLLM whose structured outputs
            are llguidance's (``--structured-outputs-config '{"backend": "guidance"}'``).
        max_parallel: requests sent at a time.
        timeout_s: seconds without a sign of the endpoint.
    """

    name = "openai"
    context_length = 0
    adapters: Sequence[str] = ()

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        extensions: Sequence[str] = (),
        max_parallel: int = 16,
        timeout_s: float = 300.0,
    ):
        if importlib.util.find_spec("openai") is None:
            raise UserError("engine=openai needs the package openai: pip install -e '.[serve]'")
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"engine.base_url={base_url} is no address: give one such as https://host:8000/v1")
        unknown = sorted(set(extensions) - set(EXTENSIONS))
        if unknown:
            raise UserError(f"engine.extensions has {unknown[0]}: choose among {', '.join(EXTENSIONS)}")
        self.base_url, self.model, self.api_key = base_url.rstrip("/"), model, api_key
        self.max_parallel, self.timeout_s, self.extensions = max_parallel, timeout_s, tuple(extensions)
        standard = {Capability.JSON_SCHEMA, Capability.LOGPROBS, Capability.COUNT_PENALTIES, Capability.LOGIT_BIAS}
        self.capabilities = frozenset(standard | {EXTENSIONS[name] for name in extensions})
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    def check(self, request: Request) -> int:
        """See `Engine.check`; the number of tokens is not known here."""
        check_capabilities(self, request)
        if request.prompt_ids is not None:
            raise UserError("engine=openai takes text, and the request has token ids: give prompt or messages")
        return 0

    def is_ready(self) -> bool:
        """See `Engine.is_ready`: whether the endpoint answers shows with the request."""
        return True

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """See `Engine.generate`."""
        return generate_in_thread(self, requests)

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        """See `Engine.stream`. Leaving it closes the connection."""
        import openai

        self.check(request)
        gate = StopGate(request.decoding.stop)
        finish: FinishReason | None = None
        prompt_tokens = completion_tokens = pieces = 0
        written = ""
        try:
            async with await self._ask(request) as chunks:
                async for chunk in chunks:
                    if chunk.usage is not None:
                        prompt_tokens, completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
                    if not chunk.choices:
                        continue
                    choice = chunk.choices[0]
                    text = (choice.delta.content if request.messages is not None else choice.text) or ""
                    pieces += bool(text)
                    finish = FINISH.get(choice.finish_reason or "", finish)
                    delta = gate.push(text.replace(BROKEN, ""))
                    logprobs = asked(_logprobs(choice.logprobs), request.decoding)
                    if gate.stopped:
                        finish = "stop"
                        break
                    written += delta
                    if delta or logprobs:
                        yield Event(request.id, delta, None, prompt_tokens, completion_tokens or pieces, logprobs)
                        delta = ""
        except openai.APIError as error:
            raise self._failure(error) from error
        if finish is None:
            raise EngineDown("the endpoint ended an answer without saying why", self.base_url)
        rest = (delta if gate.stopped else "") + gate.finish()
        rest += completed(written + rest, request.decoding, self.name) if finish == "length" else ""
        yield Event(request.id, rest, finish, prompt_tokens, completion_tokens or pieces)

    async def release(self) -> None:
        """Close the connections of this event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def close(self) -> None:
        """Nothing is held but connections, which `release` closes."""

    def _failure(self, error: Any) -> Exception:
        """What an error of OpenAI's client means here. The endpoint and its key are no matter of a server's clients."""
        import openai

        if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
            kind = PromptTooLong if error.code == "context_length_exceeded" else UserError
            return kind(f"the endpoint refuses the request: {error.message}")
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            key = "the key it was given" if self.api_key else "to answer without a key"
            return EngineDown("the endpoint refuses access", f"{self.base_url} refuses {key} ({error.status_code})")
        if isinstance(error, openai.NotFoundError):
            return EngineDown("the endpoint does not know the model", f"{self.base_url}: {error.message}")
        return EngineDown("the endpoint failed", f"{self.base_url}: {error.message}")

    async def _ask(self, request: Request) -> Any:
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            key = self.api_key or "none"  # the client insists on one
            client = AsyncOpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout_s, max_retries=4)
            self._clients[loop] = client
        how = request.decoding
        settings: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": how.temperature if how.do_sample else 0.0,
            "top_p": how.top_p,
            "extra_body": {name: getattr(how, name) for name in self.extensions if name != "grammar"},
        }
        if how.grammar is not None:
            settings["extra_body"]["structured_outputs"] = {"grammar": how.grammar.lark}
        if how.stop:
            settings["stop"] = list(how.stop)[:MOST_STOPS]  # all of them are looked for here too
        if how.seed is not None:
            settings["seed"] = how.seed
        if how.presence_penalty or how.frequency_penalty:
            settings |= {"presence_penalty": how.presence_penalty, "frequency_penalty": how.frequency_penalty}
        if how.logit_bias:
            settings["logit_bias"] = {str(token): bias for token, bias in how.logit_bias.items()}
        if how.json_schema is not None:
            schema = {"name": "answer", "schema": dict(how.json_schema)}
            settings["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.messages is None:
            if how.logprobs is not None:
                settings["logprobs"] = how.logprobs
            if "response_format" in settings:  # not part of the plain completions of the API
                settings["extra_body"]["response_format"] = settings.pop("response_format")
            return await client.completions.create(
                prompt=request.prompt or "", max_tokens=how.max_new_tokens, **settings
            )
        if how.logprobs is not None:
            settings |= {"logprobs": True, "top_logprobs": how.logprobs}
        turns: Any = [{"role": message.role, "content": message.text} for message in request.messages]
        return await client.chat.completions.create(messages=turns, max_tokens=how.max_new_tokens, **settings)


def _logprobs(logprobs: Any) -> tuple[TokenLogprob, ...]:
    """Of a chunk, in the form of chats or in that of plain completions."""
    if logprobs is None:
        return ()
    if getattr(logprobs, "content", None):
        return tuple(_entry(entry, tuple(map(_entry, entry.top_logprobs))) for entry in logprobs.content)
    tokens, values = getattr(logprobs, "tokens", None) or (), getattr(logprobs, "token_logprobs", None) or ()
    tops = getattr(logprobs, "top_logprobs", None) or [None] * len(tokens)
    return tuple(
        TokenLogprob(
            token, token.encode(), value, tuple(TokenLogprob(t, t.encode(), v) for t, v in (top or {}).items())
        )
        for token, value, top in zip(tokens, values, tops, strict=False)
    )


def _entry(entry: Any, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    spelled = bytes(entry.bytes) if entry.bytes is not None else entry.token.encode()
    return TokenLogprob(entry.token, spelled, entry.logprob, top)
