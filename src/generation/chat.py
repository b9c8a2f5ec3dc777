"""A conversation in the terminal: streaming, commands that begin with ``/``, Ctrl-C for the answer only."""

import ast
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.generation.engine import Decoding, Engine, EngineDown, Request
from src.models.templates import Message

HELP = """\
/reset               forget the conversation (the system message stays)
/system TEXT         set the system message and forget the conversation; without TEXT take it away
/set NAME=VALUE ...  change the decoding: /set temperature=0.7 max_new_tokens=100
/show                the decoding as it is now
/save FILE           write the conversation as one line of JSON ({"messages": […]}), added to what FILE has
/help                this list
/exit                leave (as does Ctrl-D); Ctrl-C stops the answer that is being written"""


class Chat:
    """One conversation with an engine.

    Args:
        engine: a streaming one.
        decoding: to begin with; ``/set`` changes it.
        chat: false for a base model, which continues each line on its own and keeps no conversation.
        system: the system message, if any.
        read: asks for one line; EOFError ends the conversation.
        write: shows a piece of text at once.
    """

    def __init__(
        self,
        engine: Engine,
        decoding: Decoding,
        chat: bool = True,
        system: str | None = None,
        read: Callable[[str], str] = input,
        write: Callable[[str], None] | None = None,
    ):
        self.engine, self.decoding, self.chat, self.system = engine, decoding, chat, system
        self.read, self.write = read, write or _to_terminal
        self.history: list[Message] = []
        self.turn = 0

    def run(self) -> None:
        """Talk until ``/exit`` or the end of the input."""
        kind = "conversation" if self.chat else "each line is continued on its own"
        self.write(f"{kind}; /help lists the commands, /exit leaves\n")
        while True:
            try:
                line = self.read("> ").strip()
            except EOFError:
                self.write("\n")
                return
            except KeyboardInterrupt:
                self.write("\n(/exit or Ctrl-D leaves)\n")
                continue
            if line in ("/exit", "/quit"):
                return
            try:
                if line.startswith("/"):
                    self.write(self.command(line) + "\n")
                elif line:
                    self.answer(line)
            except UserError as error:
                self.write(f"error: {error}\n")
            except EngineDown as error:
                self.write(f"error: {error.in_full()}\n")

    def command(self, line: str) -> str:
        """Carry out a ``/command``; returns what to show."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name == "help":
            return HELP
        if name == "show":
            return ", ".join(f"{field.name}={getattr(self.decoding, field.name)}" for field in fields(Decoding))
        if name == "set":
            self.decoding = changed(self.decoding, rest)
            return ", ".join(rest.split())
        if name == "save":
            return self.save(rest)
        if name in ("reset", "system"):
            self.history = []
            if name == "system":
                self.system = rest or None
                return "system message set, conversation forgotten" if rest else "system message taken away"
            return "conversation forgotten"
        raise UserError(f"there is no command /{name}: /help lists them")

    def save(self, path: str) -> str:
        """Add the conversation to a file in the form of training data; returns what to show."""
        if not path or not self.history:
            raise UserError("nothing was said yet" if path else "give a file: /save talk.jsonl")
        system = [Message("system", self.system)] if self.system else []
        turns = [{"role": message.role, "content": message.text} for message in [*system, *self.history]]
        try:
            with Path(path).expanduser().open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path} can't be written ({error.strerror}): give another file") from error
        return f"{len(turns)} messages added to {path}"

    def answer(self, line: str) -> None:
        """Generate the answer to a line, showing it as it comes, and remember both (a stopped answer too)."""
        question = Message("user", line)
        self.turn += 1
        if self.chat:
            opening = [Message("system", self.system)] if self.system else []
            request = Request(str(self.turn), messages=[*opening, *self.history, question], decoding=self.decoding)
        else:
            request = Request(str(self.turn), prompt=line, decoding=self.decoding)
        text, note, start = "", "stopped", time.perf_counter()
        events = self.engine.generate([request])
        try:
            for event in events:
                text += event.text_delta
                self.write(event.text_delta)
                if event.finish_reason is not None:
                    rate = event.completion_tokens / max(time.perf_counter() - start, 1e-9)
                    cut = ", cut at max_new_tokens or the context" if event.finish_reason == "length" else ""
                    note = f"{event.completion_tokens} tokens, {rate:.1f} tokens/s{cut}"
        except KeyboardInterrupt:
            getattr(events, "close", lambda: None)()
        self.write(f"\n[{note}]\n")
        self.history += [question, Message("assistant", text)]


def changed(decoding: Decoding, assignments: str) -> Decoding:
    """The decoding with ``name=value`` pairs applied. Setting a sampling option turns sampling on and beams off."""
    known = {field.name for field in fields(Decoding)}
    values: dict[str, Any] = {}
    for part in assignments.split():
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise UserError(f"'{part}' is not a setting: write NAME=VALUE with one of {', '.join(sorted(known))}")
        try:
            values[name] = {"true": True, "false": False, "none": None, "null": None}.get(value.lower(), "")
            if values[name] == "":
                values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    if not values:
        raise UserError("nothing to set: write /set temperature=0.7")
    if {"temperature", "top_p", "top_k", "min_p", "seed"} & set(values) and "do_sample" not in values:
        values |= {"do_sample": True, "num_beams": 1}
    off = values.get("do_sample") is False or (values.get("num_beams", 1) != 1)
    plain: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    plain = {**plain, "seed": None} if off else {}
    try:
        return replace(decoding, **{**plain, **values})
    except TypeError as error:
        raise UserError(
            f"'{assignments}' has a value of the wrong kind ({error}): write numbers as 0.7 or 40"
        ) from None


def _to_terminal(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
