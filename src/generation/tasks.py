"""Requests out of files and built-in cases, and answers into files that a second run continues.

``instruction[input]text`` in one string, as KnowLM's cases write it, is an instruction and the text it works on.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from yaml import YAMLError

from src.errors import UserError
from src.generation.engine import Decoding, Engine, Request
from src.models.templates import Message, messages_from_record

CASES = Path(__file__).parent / "cases"  # not in configs/: `cases` would then be a config group to Hydra
INPUT_MARK = "[input]"


@dataclass(frozen=True)
class Answer:
    """One finished request: the question as shown to people, the text, and how it ended."""

    id: str
    prompt: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


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
    texts: dict[str, str] = {}
    for event in engine.generate(requests):
        text = texts[event.request_id] = texts.get(event.request_id, "") + event.text_delta
        if event.finish_reason is not None:
            counts = event.prompt_tokens, event.completion_tokens
            yield Answer(event.request_id, questions[event.request_id], text, event.finish_reason, *counts)


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
            out.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
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
