"""Requests out of files and built-in cases, and answers into files that a second run continues.

``instruction[input]text`` in one string, as KnowLM's cases write it, is an instruction and the text it works on.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from omegaconf import OmegaConf
from yaml import YAMLError

from src.errors import UserError
from src.generation.engine import Decoding, Engine, Event, Request, TokenLogprob
from src.models.templates import Message, messages_from_record

CASES = Path(__file__).parent / "cases"  # not in configs/: `cases` would then be a config group to Hydra
INPUT_MARK = "[input]"


@dataclass(frozen=True)
class Answer:
    """One finished request: the question as shown to people, the text, and how it ended.

    logprobs: of the answer's tokens, where they were asked for.
    """

    id: str
    prompt: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; log probabilities as pairs of token and number."""
        fields = {name: value for name, value in vars(self).items() if name != "logprobs"}
        pairs = [[token.token, round(token.logprob, 4)] for token in self.logprobs]
        return fields | ({"logprobs": pairs} if pairs else {})


def make_request(record: dict[str, Any], name: str, chat: bool, decoding: Decoding, system: str | None) -> Request:
    """A request from a record with ``prompt``, ``instruction`` (and ``input``) or ``messages``.

    An answer in the record is left out. Without chat the text goes to the model as it is, and a conversation of
    several messages is an error.
    """
    if "prompt" in record:
        if not isinstance(record["prompt"], str) or not record["prompt"]:
            raise UserError(f"'prompt' of '{name}' is empty or not text")
        messages = [Message("user", record["prompt"])]
    else:
        messages = messages_from_record({key: value for key, value in record.items() if key != "output"})
        messages = messages[:-1] if messages[-1].role == "assistant" else messages
    if not chat:
        if len(messages) != 1 or messages[0].role != "user":
            raise UserError(f"'{name}' is a conversation, and the model is used without a template: set chat=true")
        return Request(name, prompt=messages[0].text, decoding=decoding)
    if system and messages[0].role != "system":
        messages = [Message("system", system), *messages]
    return Request(name, messages=messages, decoding=decoding)


def split_input(record: dict[str, Any], chat: bool) -> dict[str, Any]:
    """A record in which ``instruction[input]text`` is taken apart, where text stands on both sides of the mark.

    A prompt is taken apart too if it goes through a template; for a base model it is the text as it stands.
    """
    key = "instruction" if "instruction" in record else "prompt" if chat else ""
    before, mark, after = str(record.get(key) or "").partition(INPUT_MARK)
    if not mark or not before.strip() or not after.strip() or record.get("input"):
        return record
    rest = {name: value for name, value in record.items() if name != "prompt"}
    return {**rest, "instruction": before.strip(), "input": after.strip()}


def read_requests(path: str | Path, chat: bool, decoding: Decoding, system: str | None = None) -> list[Request]:
    """Requests of a .txt file (one prompt a line, empty lines skipped) or a .jsonl file (one record a line)."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"prompts file '{path}' does not exist: give a .txt or .jsonl file")
    lines = [(number, line) for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"prompts file '{path}' is empty: give at least one prompt")
    requests = []
    for number, line in lines:
        record = {"prompt": line.rstrip("\r")} if file.suffix == ".txt" else _record(line, f"{path}:{number}")
        try:
            name = str(record.get("id", number))
            requests.append(make_request(split_input(record, chat), name, chat, decoding, system))
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
    return requests


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}): .jsonl files hold one object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} is {type(record).__name__}: each line must be an object with a prompt or instruction")
    return record


@dataclass(frozen=True)
class Case:
    """One case of a set, with the decoding it runs with.

    chat: it is an instruction, for the model's template where it has one.
    without_effect: settings that KnowLM passed beside these and that did nothing, since it never sampled.
    """

    name: str
    record: dict[str, Any]
    decoding: Decoding
    chat: bool
    without_effect: dict[str, float]

    def request(self, can_chat: bool, system: str | None = None) -> Request:
        """The case as a request; without a template an instruction goes to the model as plain text."""
        chat = self.chat and can_chat
        return make_request(split_input(self.record, chat), self.name, chat, self.decoding, system)


def read_cases(name: str, decoding: Decoding, given: Collection[str] = ()) -> list[Case]:
    """The cases of a built-in set or of a YAML file like it; their own settings go over ``decoding``.

    Beams give way where ``decoding`` samples.

    Args:
        given: settings of ``decoding`` that go over those of the cases; ``max_new_tokens`` among them is the most that
            a case generates.

    Raises:
        UserError: there is no such set or file, or something in it is not known.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CASES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CASES.glob("*.yaml")))
        raise UserError(f"cases '{name}' do not exist: choose one of {known}, or give a YAML file")
    try:
        content = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
        cases = [_case(case, content, decoding, given) for case in content["cases"]]
    except (TypeError, KeyError, AttributeError, YAMLError) as error:
        raise UserError(
            f"cases '{name}' can't be read ({' '.join(str(error).split())}): expected a YAML file with cases, each "
            "with name, prompt or instruction (and input), and decoding, as those in src/generation/cases/"
        ) from error
    if len({case.name for case in cases}) < len(cases):
        raise UserError(f"cases '{name}' has two cases of one name: give each its own")
    return cases


def _case(case: dict[str, Any], content: dict[str, Any], decoding: Decoding, given: Collection[str]) -> Case:
    settings = {**content.get("decoding", {}), **case.get("decoding", {})}
    without_effect = {**content.get("without_effect", {}), **case.get("without_effect", {})}
    if decoding.do_sample:  # beams and sampling exclude each other, and the person asked for sampling
        settings.pop("num_beams", None)
        without_effect = {}
    limit = min(settings.get("max_new_tokens", decoding.max_new_tokens), decoding.max_new_tokens)
    settings = {key: value for key, value in settings.items() if key not in given}
    if "max_new_tokens" in given:
        settings["max_new_tokens"] = limit
    record = {key: value for key, value in case.items() if key in ("prompt", "instruction", "input", "messages")}
    chat = bool(content.get("chat"))
    return Case(str(case["name"]), record, replace(decoding, **settings), chat, dict(sorted(without_effect.items())))


def shown(request: Request) -> str:
    """The request as a person would write it: the prompt, or the last message."""
    return request.prompt if request.prompt is not None else list(request.messages or [])[-1].text


def answers(engine: Engine, requests: Sequence[Request]) -> Iterator[Answer]:
    """Run the requests and give each answer as soon as it is whole."""
    questions = {request.id: shown(request) for request in requests}
    events: dict[str, list[Event]] = {}
    for event in engine.generate(requests):
        events.setdefault(event.request_id, []).append(event)
        if event.finish_reason is not None:
            yield _answer(questions[event.request_id], events.pop(event.request_id))


def _answer(question: str, events: Sequence[Event]) -> Answer:
    """All events of a request as one answer."""
    last = events[-1]
    return Answer(
        last.request_id,
        question,
        "".join(event.text_delta for event in events),
        str(last.finish_reason),
        last.prompt_tokens,
        last.completion_tokens,
        tuple(entry for event in events for entry in event.logprobs),
    )


class AnswerPool:
    """Requests that are worked on while more come: what keeps an engine full where their number is not known before.

    Used as a context manager, which stops the work on all that are under way when it is left. For one thread.

        with AnswerPool(engine) as pool:
            pool.submit(request)
            answer = pool.next()
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._done: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="answer pool", daemon=True)
        self.under_way = 0
        self.room = max(1, 2 * engine.max_parallel)  # so many under way never let the engine wait

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, request: Request) -> None:
        """Start working on a request."""
        self.under_way += 1
        asyncio.run_coroutine_threadsafe(self._work(request), self._loop)

    def next(self) -> Answer:
        """Wait for the next answer of any request; raises what the engine raised for it."""
        if not self.under_way:
            raise RuntimeError("no request is under way")
        found = self._done.get()
        self.under_way -= 1
        if isinstance(found, BaseException):
            raise found
        return found

    async def _work(self, request: Request) -> None:
        events = []
        try:
            async with aclosing(self._engine.stream(request)) as stream:  # type: ignore[type-var]
                async for event in stream:
                    events.append(event)
            self._done.put(_answer(shown(request), events))
        except BaseException as error:  # raised again by `next`
            self._done.put(error)

    async def _stop(self) -> None:
        own = asyncio.current_task()
        works = [task for task in asyncio.all_tasks() if task is not own]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await self._engine.release()


def run_to_file(
    engine: Engine, requests: Sequence[Request], path: str | Path, done: Callable[[Answer], None]
) -> tuple[int, int]:
    """Append each answer to a JSONL file as it comes, skipping ids that the file already has.

    ``done`` is called after each. Returns how many were generated and how many were there before. A last line that a
    killed run left unfinished is taken away.
    """
    file = Path(path)
    present = _present(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    missing = [request for request in requests if request.id not in present]
    with file.open("a", encoding="utf-8") as out:
        for answer in answers(engine, missing):
            out.write(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n")
            out.flush()
            done(answer)
    return len(missing), len(requests) - len(missing)


def _present(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    whole, _, _unfinished = file.read_bytes().rpartition(b"\n")
    ids = set()
    for number, line in enumerate(whole.decode("utf-8").split("\n") if whole else [], 1):
        record = _record(line, f"{file}:{number}")
        if "id" not in record:
            raise UserError(f"output file '{file}' holds something else than answers: give another name")
        ids.add(str(record["id"]))
    file.write_bytes(whole + b"\n" if whole else b"")
    return ids
