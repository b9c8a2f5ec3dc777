"""What every engine takes and gives: requests with a decoding each, and events of text.

An engine either does what a `Decoding` asks or raises `Unsupported`; it never drops an option in silence. What it can
do beyond greedy decoding and sampling it states as `Capability`, so that a server refuses a request before it queues.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol

from src.errors import UserError
from src.models.templates import Message

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


class Capability(StrEnum):
    """What not every engine can do."""

    BEAMS = "beam search"
    JSON_SCHEMA = "answers that follow a JSON schema"
    GRAMMAR = "answers that follow a grammar"
    LOGPROBS = "log probabilities"
    PROMPT_LOGPROBS = "log probabilities of the prompt"
    COUNT_PENALTIES = "presence and frequency penalties"
    REPETITION_PENALTY = "a repetition penalty"
    TOP_K = "top_k"
    MIN_P = "min_p"
    LOGIT_BIAS = "logit_bias"
    IGNORE_EOS = "ignore_eos"
    ADAPTERS = "adapters"
    HIDDEN_STATES = "hidden states"


class Unsupported(UserError):
    """A request that needs what the engine can't do. ``parameter`` is the setting that asks for it."""

    def __init__(self, message: str, parameter: str):
        super().__init__(message)
        self.parameter = parameter


class PromptTooLong(UserError):
    """A prompt that leaves no room for an answer in the model's context."""


class EngineDown(RuntimeError):
    """The engine can't answer now: its process has died and is being started again, or an endpoint is out of reach.

    detail: why, for whoever runs the engine and nobody else: addresses, what a process or an endpoint said. It is
        logged; a command shows it too, a server does not tell its clients.
    """

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message)
        self.detail = detail
        if detail:
            log.info("%s", self.in_full())

    def in_full(self) -> str:
        """Message and detail."""
        return f"{self}: {self.detail}" if self.detail else str(self)


@dataclass(frozen=True)
class Grammar:
    """What an answer may be, as a grammar.

    lark: in llguidance's dialect of Lark; begins with ``%llguidance {}``.
    close: the shortest text that completes an answer so far. Where it is given, an answer that would not be whole at
        the limit of tokens is completed with it in time; its finish reason is then ``length``. None: an answer that
        reaches the limit ends where it is.
    longest_close: bytes of the longest text that ``close`` gives, so that it is asked only when it may be needed; None
        where that is not known.
    """

    lark: str
    close: Callable[[str], str] | None = None
    longest_close: int | None = None


@dataclass(frozen=True)
class Decoding:
    """How the next tokens are chosen. In this order: bias, penalties, temperature, top_k, top_p, min_p, the draw.

    Args:
        max_new_tokens: at most so many tokens; fewer where the model's context ends first.
        do_sample: draw tokens by chance; without it the likeliest token (or beam) is taken and `temperature`, `top_p`,
            `top_k`, `min_p` and `seed` must be left alone, because they would do nothing.
        temperature: above 1 is bolder, below 1 more careful.
        top_p: draw among the likeliest tokens that together reach this probability (Holtzman et al. 2019).
        top_k: draw among this many likeliest tokens; 0 means all.
        min_p: draw among tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024).
        num_beams: above 1 is beam search, which does not sample.
        repetition_penalty: above 1 makes tokens of the prompt and of the answer so far less likely (Keskar et al.
            2019). It harms tasks that copy, such as extraction.
        presence_penalty, frequency_penalty: taken off the logit of each token of the answer so far, once, and once for
            each time it occurred (the OpenAI API's); negative values invite repetition.
        logit_bias: added to the logits of these token ids; -100 bans one.
        seed: makes a sampled answer repeatable on the same engine; None draws anew each time.
        stop: texts that end the answer and are not part of it, besides those of the template.
        json_schema: the answer is JSON that follows this schema; ``{}`` is any JSON value.
        grammar: the answer follows this grammar.
        logprobs: log probabilities of the chosen tokens and of this many likeliest at each place, of the model's own
            distribution before any of the above; None for none.
        ignore_eos: never choose an end token, so that the answer has `max_new_tokens`: for measuring speed.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: Sequence[str] = field(default=())
    json_schema: Mapping[str, Any] | None = None
    grammar: Grammar | None = None
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()))
        limits = {
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "temperature": (self.temperature > 0, "above 0 (for the likeliest token set decoding=greedy)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "num_beams": (self.num_beams >= 1, "1 or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0 (1 means none)"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "between -2 and 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "between -2 and 2"),
            "stop": (all(isinstance(text, str) and text for text in self.stop), "a list of texts that are not empty"),
            "grammar": (self.grammar is None or isinstance(self.grammar, Grammar), "a Grammar, or null"),
            "logprobs": (self.logprobs is None or 0 <= self.logprobs <= 20, "between 0 and 20, or null"),
        }
        for name, (good, expected) in limits.items():
            if not good:
                raise UserError(f"decoding.{name} is {getattr(self, name)!r}: it must be {expected}")
        if self.json_schema is not None:
            check_schema(self.json_schema)
        shaped = [name for name in ("json_schema", "grammar") if getattr(self, name) is not None]
        if shaped and self.ignore_eos:
            raise UserError(f"ignore_eos does not go with {shaped[0]}, whose answer ends: leave one of them out")
        if len(shaped) > 1:
            raise UserError("an answer follows one thing: leave out decoding.json_schema or decoding.grammar")
        drawn = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None}
        idle = [name for name, default in drawn.items() if getattr(self, name) != default]
        if idle and not self.do_sample:
            raise UserError(
                f"decoding.{idle[0]} does nothing without sampling: set decoding=sample (or decoding.do_sample=true)"
            )
        if self.do_sample and self.num_beams > 1:
            raise UserError("beam search does not sample: set decoding.num_beams=1 or decoding.do_sample=false")
        single = {Capability.COUNT_PENALTIES, Capability.LOGIT_BIAS, Capability.LOGPROBS}
        if self.num_beams > 1 and (used := [name for need, name in self.needs().items() if need in single]):
            raise UserError(f"beam search does not go with {used[0]}: leave it out or set decoding.num_beams=1")

    def needs(self) -> dict[Capability, str]:
        """What an engine must be capable of to do this, each with the setting that asks for it."""
        asked = {
            Capability.BEAMS: ("num_beams", self.num_beams > 1),
            Capability.JSON_SCHEMA: ("json_schema", self.json_schema is not None),
            Capability.GRAMMAR: ("grammar", self.grammar is not None),
            Capability.LOGPROBS: ("logprobs", self.logprobs is not None),
            Capability.REPETITION_PENALTY: ("repetition_penalty", self.repetition_penalty != 1.0),
            Capability.TOP_K: ("top_k", self.top_k > 0),
            Capability.MIN_P: ("min_p", self.min_p > 0),
            Capability.LOGIT_BIAS: ("logit_bias", bool(self.logit_bias)),
            Capability.IGNORE_EOS: ("ignore_eos", self.ignore_eos),
            Capability.COUNT_PENALTIES: (
                "presence_penalty" if self.presence_penalty else "frequency_penalty",
                bool(self.presence_penalty or self.frequency_penalty),
            ),
        }
        return {capability: name for capability, (name, needed) in asked.items() if needed}


@dataclass(frozen=True)
class Request:
    """One thing to generate: a conversation for the template, a plain prompt to continue, or its token ids.

    adapter: name of one of the engine's adapters; None is the model without one.
    """

    id: str
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    prompt_ids: Sequence[int] | None = None
    decoding: Decoding = field(default_factory=Decoding)
    adapter: str | None = None

    def __post_init__(self) -> None:
        if [self.prompt, self.messages, self.prompt_ids].count(None) != 2:
            raise UserError(f"request '{self.id}' must have either a prompt or messages, and not both")


@dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer (its bytes may be part of a character) and the likeliest tokens at its place."""

    token: str
    bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class Event:
    """A piece of an answer. The last event of a request has a finish reason and the final counts.

    ``finish_reason``: ``stop`` at an end token or stop text, ``length`` at the limit of tokens. ``completion_tokens``
    counts the end token too. ``logprobs`` are those of the tokens since the event before, whether or not their text is
    out already.
    """

    request_id: str
    text_delta: str = ""
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Engine(Protocol):
    """Whatever turns requests into text.

    Attributes:
        name: transformers, llamacpp, vllm or openai.
        capabilities: what it can do beyond greedy decoding and sampling by temperature and top_p.
        context_length: tokens of prompt and answer together; 0 where only the other end knows.
        max_parallel: requests that it works on at a time; more wait within it.
        adapters: names of adapters that requests can ask for.
    """

    name: str
    capabilities: frozenset[Capability]
    context_length: int
    max_parallel: int
    adapters: Sequence[str]

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Events of all requests; those of one request come in order, those of several may alternate.

        Raises:
            UserError: a request can't be met; before anything runs.
        """
        ...

    def stream(self, request: Request) -> AsyncIterator[Event]:
        """Events of one request beside any others. Closing the iterator stops the work on it at the next token.

        Raises:
            UserError: it can't be met (`Unsupported`, `PromptTooLong`).
            EngineDown: the engine can't answer now.
        """
        ...

    def check(self, request: Request) -> int:
        """The prompt's number of tokens (0 where only the other end knows); raises what `stream` would."""
        ...

    def is_ready(self) -> bool:
        """Whether it would take a request now."""
        ...

    async def release(self) -> None:
        """Let go of what belongs to the running event loop, such as connections, before the loop ends."""
        ...

    def close(self) -> None:
        """Stop what runs and free what it holds. Idempotent."""
        ...


def completed(text: str, how: Decoding, engine: str) -> str:
    """What is missing in an answer that an engine elsewhere has cut off; "" where nothing says what.

    Raises:
        EngineDown: the engine has not held the answer to its grammar.
    """
    if how.grammar is None or how.grammar.close is None:
        return ""
    try:
        return how.grammar.close(text)
    except ValueError as error:
        raise EngineDown(f"the {engine} engine did not hold an answer to its grammar", str(error)) from error


def asked(logprobs: tuple[TokenLogprob, ...], how: Decoding) -> tuple[TokenLogprob, ...]:
    """With as many of the likeliest as were asked for: some engines put the chosen token first, or give one more."""
    likeliest = (sorted(entry.top, key=lambda top: -top.logprob)[: how.logprobs] for entry in logprobs)
    return tuple(replace(entry, top=tuple(top)) for entry, top in zip(logprobs, likeliest, strict=True))


def check_capabilities(engine: Engine, request: Request) -> None:
    """Refuse a request that needs what the engine lacks. Raises `Unsupported`."""
    for capability, parameter in request.decoding.needs().items():
        if capability not in engine.capabilities:
            raise Unsupported(
                f"the {engine.name} engine can't do {capability}: leave {parameter} out or serve with another engine",
                parameter,
            )
    if request.adapter is not None and request.adapter not in engine.adapters:
        known = f"it has {', '.join(engine.adapters)}" if engine.adapters else "it has none"
        raise Unsupported(f"the engine has no adapter '{request.adapter}': {known}", "adapter")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `UserError` for what is no JSON schema (draft 2020-12): some engines would take it for no constraint."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        place = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise UserError(f"json_schema{place} is no JSON schema: {error.message}") from error


def check_ids(requests: Sequence[Request]) -> None:
    """Refuse two requests with the same id."""
    if len({request.id for request in requests}) < len(requests):
        raise UserError("two requests have the same id: give each its own")


def generate_in_thread(engine: Engine, requests: Sequence[Request]) -> Iterator[Event]:
    """`Engine.generate` by means of `Engine.stream`: all requests side by side in an event loop of a thread.

    When the caller leaves (Ctrl-C, close), all of them stop.
    """
    check_ids(requests)
    for request in requests:
        engine.check(request)
    events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.SimpleQueue()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        started.put((asyncio.get_running_loop(), task))
        free = asyncio.Semaphore(max(1, 2 * engine.max_parallel))

        async def one(request: Request) -> None:
            async with free, aclosing(engine.stream(request)) as stream:  # type: ignore[type-var]
                async for event in stream:
                    events.put(event)

        outcome: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    group.create_task(one(request))
        except BaseExceptionGroup as errors:  # one that failed ended the others
            outcome = errors.exceptions[0]
        except BaseException as error:  # handed to the caller, who raises it
            outcome = error
        try:
            await engine.release()
        finally:
            events.put(outcome)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    loop, task = started.get()
    ended = False
    try:
        while isinstance(event := events.get(), Event):
            yield event
        ended = True
    finally:
        if not ended:  # the caller leaves
            with suppress(RuntimeError):  # the loop is closed: everything had come
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
    if event is not None:
        raise event
