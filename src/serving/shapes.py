"""Answers as the JSON of each route: the parts of a stream, and the whole.

Plain dictionaries, because they are made for each token.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from src.generation.engine import Event, FinishReason, TokenLogprob
from src.serving.asking import Asked


@dataclass
class Answer:
    """What has come of one answer."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, event: Event) -> None:
        """Put an event to the end."""
        self.text += event.text_delta
        self.logprobs += event.logprobs
        self.count(event)

    def extend(self, piece: "Answer") -> None:
        """Put a piece to the end."""
        self.text += piece.text
        self.logprobs += piece.logprobs
        self.count(piece)

    def count(self, later: "Event | Answer") -> None:
        """Take over what a later event or piece says about the whole."""
        self.finish_reason = later.finish_reason or self.finish_reason
        self.prompt_tokens = later.prompt_tokens or self.prompt_tokens
        self.completion_tokens = later.completion_tokens or self.completion_tokens


def joined(batch: Iterable[tuple[int, Event]]) -> dict[int, Answer]:
    """The events of each answer as one piece."""
    pieces: dict[int, Answer] = {}
    for number, event in batch:
        if number in pieces:
            pieces[number].add(event)
        else:
            reason, prompt, completion = event.finish_reason, event.prompt_tokens, event.completion_tokens
            pieces[number] = Answer(event.text_delta, list(event.logprobs), reason, prompt, completion)
    return pieces


class Shape(Protocol):
    """The JSON of a route.

    Attributes:
        is_slow: whether `whole` and `last` have work to do that other requests should not wait for.
    """

    is_slow: bool

    def first(self) -> Iterator[dict[str, Any]]:
        """What a stream begins with."""
        ...

    def part(self, number: int, piece: Answer) -> dict[str, Any]:
        """A piece of the answer with this number."""
        ...

    def last(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        """What a stream ends with, after all answers have ended."""
        ...

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a request that does not stream."""
        ...


class _OpenAI(ABC):
    """What both routes of the OpenAI API share."""

    kind = chunk_kind = ""
    is_slow = False

    def __init__(self, asked: Asked):
        self.asked = asked
        self._head = {"id": asked.id, "created": int(time.time()), "model": asked.served.id}

    def first(self) -> Iterator[dict[str, Any]]:
        yield from ()

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head, "object": self.chunk_kind, "choices": choices}
        if self.asked.include_usage:
            chunk["usage"] = None
        return chunk

    def last(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        if self.asked.include_usage:
            yield {**self._head, "object": self.chunk_kind, "choices": [], "usage": usage(answers, self.asked.n)}

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [self.choice(number, answer) for number, answer in enumerate(answers)]
        return {**self._head, "object": self.kind, "choices": choices, "usage": usage(answers, self.asked.n)}

    @abstractmethod
    def choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """A whole answer."""


class ChatShape(_OpenAI):
    """/v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def first(self) -> Iterator[dict[str, Any]]:
        for number in range(len(self.asked.requests)):
            delta = {"role": "assistant", "content": ""}
            yield self.chunk([{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}])

    def part(self, number: int, piece: Answer) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": piece.finish_reason}
        if piece.logprobs:
            choice["logprobs"] = self.logprobs(piece.logprobs)
        return self.chunk([choice])

    def choice(self, number: int, answer: Answer) -> dict[str, Any]:
        return {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self.logprobs(answer.logprobs) if self.asked.top_logprobs is not None else None,
            "finish_reason": answer.finish_reason,
        }

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        most = self.asked.top_logprobs or 0
        content = [{**_token(token), "top_logprobs": [_token(top) for top in token.top[:most]]} for token in tokens]
        return {"content": content, "refusal": None}


class CompletionShape(_OpenAI):
    """/v1/completions."""

    kind = chunk_kind = "text_completion"

    def __init__(self, asked: Asked):
        super().__init__(asked)
        self._offsets = [0] * len(asked.requests)  # characters of the tokens so far

    def first(self) -> Iterator[dict[str, Any]]:
        for number, _ in enumerate(self.asked.requests if self.asked.echoes else ()):
            choice = {"index": number, "text": self.echo(number), "logprobs": None, "finish_reason": None}
            yield self.chunk([choice])

    def part(self, number: int, piece: Answer) -> dict[str, Any]:
        logprobs = self.logprobs(number, piece.logprobs) if piece.logprobs else None
        finish = piece.finish_reason
        return self.chunk([{"index": number, "text": piece.text, "logprobs": logprobs, "finish_reason": finish}])

    def choice(self, number: int, answer: Answer) -> dict[str, Any]:
        logprobs = self.logprobs(number, answer.logprobs) if self.asked.top_logprobs is not None else None
        text = self.echo(number) + answer.text
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": answer.finish_reason}

    def echo(self, number: int) -> str:
        """The prompt of an answer, where it was asked to go before it."""
        return self.asked.echoes[number // self.asked.n] if self.asked.echoes else ""

    def logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        most = self.asked.top_logprobs or 0
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token.token)
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{top.token: top.logprob for top in token.top[:most]} for token in tokens]
            if most
            else None,
            "text_offset": offsets,
        }


class KnowLMShape:
    """POST /generate: KnowLM's three keys; in a stream the text of each part, and the tokens so far."""

    is_slow = False

    def __init__(self, asked: Asked):
        self.tokens = 0

    def first(self) -> Iterator[dict[str, Any]]:
        yield from ()

    def part(self, number: int, piece: Answer) -> dict[str, Any]:
        self.tokens = piece.completion_tokens or self.tokens
        return knowlm_body(piece.text, self.tokens)

    def last(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        yield from ()

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return knowlm_body(answers[0].text, answers[0].completion_tokens)


def knowlm_body(text: str, tokens: int, error: str | None = None) -> dict[str, Any]:
    """The body of KnowLM's route."""
    return {"generated_text": text, "num_output_tokens_cf": tokens, "error": error}


def usage(answers: Sequence[Answer], n: int) -> Mapping[str, int]:
    """Token counts; a prompt that has several answers counts once."""
    prompt = sum(answer.prompt_tokens for answer in answers[::n])
    completion = sum(answer.completion_tokens for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
