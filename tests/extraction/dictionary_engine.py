"""A model that knows a few names: it answers prompts of the format oneke by looking for them in the text."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from src.generation.engine import Capability, Event, Request, TokenLogprob, check_capabilities

Known = Mapping[str, Mapping[str, Any]]  # for each task, the answer's value by name and then by what the text must hold


class DictionaryEngine:
    """An `Engine` without grammars. Its answers come in two pieces, those to long prompts later than short ones.

    known: by name of what is asked for, what it answers where a text holds the key.
    """

    name = "dictionary"
    capabilities = frozenset({Capability.LOGPROBS})
    context_length = 2048
    adapters: Sequence[str] = ()

    def __init__(self, known: Known, max_parallel: int = 2):
        self.known, self.max_parallel = known, max_parallel
        self.seen: list[Request] = []
        self.running = self.most_running = 0

    def check(self, request: Request) -> int:
        check_capabilities(self, request)
        return len(request.messages[-1].text.split())

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        for request in requests:
            yield from self._events(request)

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        check_capabilities(self, request)
        self.seen.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(len(request.messages[-1].text) / 100_000)
            for event in self._events(request):
                yield event
        finally:
            self.running -= 1

    def _events(self, request: Request) -> Iterator[Event]:
        asked = json.loads(request.messages[-1].text)
        text = json.dumps({name: self._value(name, asked["input"]) for name in names_of(asked)}, ensure_ascii=False)
        tokens = ()
        if request.decoding.logprobs is not None:
            tokens = tuple(TokenLogprob(letter, letter.encode(), -0.1) for letter in text)
        half = len(text) // 2
        yield Event(request.id, text[:half], logprobs=tokens[:half])
        reason = "length" if len(text) > request.decoding.max_new_tokens else "stop"
        yield Event(request.id, text[half:], reason, self.check(request), len(text), tokens[half:])

    def _value(self, name: str, text: str) -> Any:
        answers = self.known.get(name, {})
        values = [value for key, value in answers.items() if key in text]
        if answers and all(isinstance(value, dict) and "subject" not in value for value in answers.values()):
            records = {key: value for each in values if "arguments" not in each for key, value in each.items()}
            return records or values
        return values

    def is_ready(self) -> bool:
        return True

    async def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def names_of(asked: Mapping[str, Any]) -> list[str]:
    """What a prompt of the format oneke asks for."""
    schema = asked["schema"]
    if isinstance(schema, dict):
        return list(schema)
    keys = ("predicate", "event_type", "entity_type")
    return [each if isinstance(each, str) else next(each[key] for key in keys if key in each) for each in schema]
