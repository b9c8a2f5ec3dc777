"""Prompt templates: a conversation as text, as token ids, and as a mask of what the model is to learn.

A template is data (``configs/prompt_template/*.yaml``): one frame of text for each role, with control tokens named. A
conversation becomes a list of *pieces*, each either one control token or a run of plain text, each either trained on
or not. Pieces are encoded one by one, so

- the edge between prompt and answer is always an edge between tokens, in training as in generation, and the prompt's
  ids are a prefix of the training ids;
- a control token's spelling inside somebody's text stays text (``split_special_tokens``): nobody can close their turn
  and speak as another role.

The loss is taken on the assistant's content and on the end token of each of its turns, and on nothing else.
`ChatTemplate` gives the same for the Jinja template a tokenizer carries.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from omegaconf import OmegaConf

from src.errors import UserError
from src.models.chat_template import ChatTemplate
from src.models.conversation import Encoded, Message, Piece, control_id, encode_pieces, messages_from_record, roles_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

__all__ = ["ChatTemplate", "Encoded", "Message", "PromptTemplate", "Template", "load_template", "messages_from_record"]

TEMPLATES = Path(__file__).resolve().parents[2] / "configs" / "prompt_template"


class Template(Protocol):
    """What `PromptTemplate` and `ChatTemplate` have in common."""

    name: str
    stop_strings: list[str]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str: ...

    def encode(
        self, messages: Sequence[Message], tokenizer: "Tokenizer", add_generation_prompt: bool = False
    ) -> Encoded: ...

    def stop_token_ids(self, tokenizer: "Tokenizer") -> list[int]: ...


class PromptTemplate:
    """A template made of frames. The fields are described in ``configs/prompt_template/alpaca.yaml``."""

    def __init__(
        self,
        name: str,
        user: str,
        assistant: str,
        user_with_input: str | None = None,
        assistant_start: str = "",
        assistant_close: str = "",
        system: str | None = None,
        default_system: str | None = None,
        default_system_with_input: str | None = None,
        system_every_turn: bool = False,
        tool: str | None = None,
        control: Sequence[str] = (),
        stop_strings: Sequence[str] = (),
        eos_token: str = "</s>",
    ):
        self.name = name
        self.user, self.user_with_input, self.tool, self.system = user, user_with_input, tool, system
        self.assistant_start, self.assistant, self.assistant_close = assistant_start, assistant, assistant_close
        self.default_system, self.default_system_with_input = default_system, default_system_with_input
        self.system_every_turn = system_every_turn
        self.control = list(control)
        self.stop_strings = list(stop_strings)
        self.eos_token = eos_token  # how `render` spells {eos}; `encode` asks the tokenizer
        self._marks = re.compile("(" + "|".join(map(re.escape, ["{bos}", "{eos}", *self.control])) + ")")

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as one text, without the bos token that a tokenizer adds by itself."""
        names = {"{bos}": "", "{eos}": self.eos_token}
        pieces = self.pieces(messages, add_generation_prompt)
        return "".join(names.get(piece.text, piece.text) if piece.control else piece.text for piece in pieces)

    def encode(
        self, messages: Sequence[Message], tokenizer: "Tokenizer", add_generation_prompt: bool = False
    ) -> Encoded:
        """Ids and loss mask of the conversation, complete with control tokens."""
        return encode_pieces(self.pieces(messages, add_generation_prompt), tokenizer)

    def stop_token_ids(self, tokenizer: "Tokenizer") -> list[int]:
        """The ids that end an answer: the end token of this template and the tokenizer's own."""
        ends = [piece.text for piece in self._split(self.assistant, trained=True) if piece.control]
        ids = [control_id(end, tokenizer) for end in ends] + [tokenizer.eos_token_id]
        return list(dict.fromkeys(number for number in ids if number is not None))

    def pieces(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[Piece]:
        """The conversation as pieces in order; UserError where the template has no place for a message."""
        check_order(messages, self.name)
        system = next((message.text for message in messages if message.role == "system"), None)
        if system is not None and self.system is None:
            raise UserError(f"template '{self.name}' has no place for a system message: leave it out or take another")
        turns: list[Piece] = []
        users = 0
        for message in messages:
            if message.role == "user":
                turns += self._user(message, system, first=users == 0)
                users += 1
            elif message.role == "tool":
                if self.tool is None:
                    raise UserError(f"template '{self.name}' has no place for a tool message: use chatml or another")
                turns += self._split(self.tool, {"{content}": message.text})
            elif message.role == "assistant":
                turns += self._split(self.assistant_start)
                turns += self._split(self.assistant, {"{content}": message.text}, trained=True)
                turns += self._split(self.assistant_close)
        if users == 0:
            raise UserError(f"template '{self.name}' needs a user message: found only {roles_of(messages)}")
        return turns + (self._split(self.assistant_start) if add_generation_prompt else [])

    def _user(self, message: Message, system: str | None, first: bool) -> list[Piece]:
        sectioned = bool(message.input) and self.user_with_input is not None
        frame = cast(str, self.user_with_input) if sectioned else self.user
        if system is None:
            system = (self.default_system_with_input if sectioned else None) or self.default_system
        before, _, after = frame.partition("{system}")
        pieces = self._split(before)
        if system is not None and self.system is not None and (first or self.system_every_turn):
            pieces += self._split(self.system, {"{content}": system})
        content = message.content if sectioned else message.text
        return pieces + self._split(after, {"{content}": content, "{input}": message.input or ""})

    def _split(self, frame: str, values: dict[str, str] | None = None, trained: bool = False) -> list[Piece]:
        """Cut a frame at its control tokens, then fill in the values (which are never looked into)."""
        pieces = []
        for part in self._marks.split(frame):
            if self._marks.fullmatch(part):
                pieces.append(Piece(part, trained, control=True))
            elif part:
                text = re.sub(r"\{(?:content|input)\}", lambda match: (values or {}).get(match[0], ""), part)
                pieces.append(Piece(text, trained))
        return pieces


def load_template(name: str | Path | None, tokenizer: "Tokenizer | None" = None) -> Template:
    """A template by its name in ``configs/prompt_template/``, by a YAML file's path, or (None) the tokenizer's own."""
    if name is None:
        if tokenizer is None:
            raise UserError("no template was named and there is no tokenizer to take one from: set template=alpaca")
        return ChatTemplate(tokenizer)
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else TEMPLATES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.yaml")))
        raise UserError(f"template '{name}' does not exist: choose one of {known}, or give the path of a YAML file")
    values = OmegaConf.to_container(OmegaConf.load(path))
    try:
        template = PromptTemplate(**cast(dict[str, Any], values))
    except TypeError as error:
        message = str(error).split("() ", 1)[-1]
        raise UserError(f"template file {path} {message}: compare it with alpaca.yaml") from error
    if tokenizer is not None and tokenizer.eos_token is not None:
        template.eos_token = str(tokenizer.eos_token)
    return template


def check_order(messages: Sequence[Message], name: str) -> None:
    """Refuse a system message that is not the first, and two user or two assistant messages in a row."""
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        raise UserError(f"template '{name}' takes one system message, as the first: found {roles_of(messages)}")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[:1] == ["assistant"] or any(a == b and a != "tool" for a, b in itertools.pairwise(turns)):
        raise UserError(f"template '{name}' needs user and assistant in turn, user first: found {roles_of(messages)}")
