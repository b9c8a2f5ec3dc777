"""What every engine takes and gives: requests with a decoding each, and events of text.

An engine either does what a `Decoding` asks or raises `UserError`; it never drops an option in silence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from src.errors import UserError
from src.models.templates import Message

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Decoding:
    """How the next tokens are chosen.

    Args:
        max_new_tokens: at most so many tokens; fewer where the model's context ends first.
        do_sample: draw tokens by chance; without it the likeliest token (or beam) is taken and `temperature`, `top_p`,
            `top_k` and `seed` must be left alone, because they would do nothing.
        temperature: above 1 is bolder, below 1 more careful.
        top_p: draw among the likeliest tokens that together reach this probability (Holtzman et al. 2019).
        top_k: draw among this many likeliest tokens; 0 means all.
        num_beams: above 1 is beam search, which does not sample.
        repetition_penalty: above 1 makes tokens of the prompt and of the answer so far less likely (Keskar et al.
            2019). It harms tasks that copy, such as extraction.
        seed: makes a sampled answer repeatable, whatever else is generated beside it; None draws anew each time.
        stop: texts that end the answer and are not part of it, besides those of the template.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop or ()))
        limits = {
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "temperature": (self.temperature > 0, "above 0 (for the likeliest token set decoding=greedy)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "num_beams": (self.num_beams >= 1, "1 or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0 (1 means none)"),
            "stop": (all(isinstance(text, str) and text for text in self.stop), "a list of texts that are not empty"),
        }
        for name, (good, expected) in limits.items():
            if not good:
                raise UserError(f"decoding.{name} is {getattr(self, name)!r}: it must be {expected}")
        drawn = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": None}
        idle = [name for name, default in drawn.items() if getattr(self, name) != default]
        if idle and not self.do_sample:
            raise UserError(
                f"decoding.{idle[0]} does nothing without sampling: set decoding=sample (or decoding.do_sample=true)"
            )
        if self.do_sample and self.num_beams > 1:
            raise UserError("beam search does not sample: set decoding.num_beams=1 or decoding.do_sample=false")


@dataclass(frozen=True)
class Request:
    """One thing to generate: either a conversation for the template or a plain prompt to continue."""

    id: str
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    decoding: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise UserError(f"request '{self.id}' must have either a prompt or messages, and not both")


@dataclass(frozen=True)
class Event:
    """A piece of an answer. The last event of a request has a finish reason and the final counts.

    ``finish_reason``: ``stop`` at an end token or stop text, ``length`` at the limit of tokens. ``completion_tokens``
    counts the end token too.
    """

    request_id: str
    text_delta: str = ""
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Engine(Protocol):
    """Whatever turns requests into text."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Events of all requests; those of one request come in order, those of several may alternate."""
        ...
