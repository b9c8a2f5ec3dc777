"""A conversation as data: messages, the pieces a template makes of them, and the token ids of the pieces."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from src.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Role = Literal["system", "user", "assistant", "tool"]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    ``input`` is the text an instruction works on (alpaca's second field): templates with a section for it put it there,
    the others put it on a new line after the content.
    """

    role: Role
    content: str
    input: str | None = None

    @property
    def text(self) -> str:
        """Content and input as one text."""
        return f"{self.content}\n{self.input}" if self.input else self.content


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, and for each whether the loss is taken on it; both of the same length."""

    input_ids: list[int]
    loss_mask: list[bool]


@dataclass(frozen=True)
class Piece:
    """A run of plain text, or one control token by its spelling (or by its name, ``{bos}`` or ``{eos}``)."""

    text: str
    trained: bool = False
    control: bool = False


def messages_from_record(record: dict[str, Any]) -> list[Message]:
    """Turn a record into messages: alpaca (instruction, input?, output?, system?, history?) or ``{messages: […]}``."""
    if "messages" in record:
        turns = record["messages"]
        if not isinstance(turns, list) or not turns:
            raise UserError("'messages' is empty or not a list: it needs objects with 'role' and 'content'")
        return [_message(turn, number) for number, turn in enumerate(turns, 1)]
    if "instruction" not in record:
        keys = ", ".join(map(str, record)) or "nothing"
        raise UserError(f"a record has neither 'messages' nor 'instruction' (found {keys}): give it one of them")
    texts = {key: record.get(key) for key in ("instruction", "input", "output", "system")}
    for key, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise UserError(f"'{key}' of a record is {type(value).__name__}: it must be text")
    if not texts["instruction"]:
        raise UserError("'instruction' of a record is empty: it must say what to do")
    messages = [Message("system", texts["system"])] if texts["system"] else []
    for pair in record.get("history") or []:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise UserError("'history' of a record must be a list of [question, answer] pairs of text")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    messages.append(Message("user", texts["instruction"], texts["input"] or None))
    if texts["output"] is not None:
        messages.append(Message("assistant", texts["output"]))
    return messages


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict) or "role" not in turn:
        raise UserError(f"message {number} has no 'role': it must be one of {', '.join(ROLES)}")
    if turn["role"] not in ROLES:
        raise UserError(f"message {number} has the role '{turn['role']}': it must be one of {', '.join(ROLES)}")
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise UserError(f"message {number} ({turn['role']}) has no text under 'content'")
    return Message(turn["role"], content)


def roles_of(messages: Sequence[Message]) -> str:
    """The roles of a conversation for an error message."""
    return ", ".join(message.role for message in messages) or "nothing"


def encode_pieces(pieces: Sequence[Piece], tokenizer: "Tokenizer") -> Encoded:
    """Encode piece by piece; neighbouring texts of one kind are one text, so only control tokens and mask cut."""
    ids: list[int] = []
    mask: list[bool] = []
    fresh = True  # whether a SentencePiece tokenizer would put its word mark here: at the very start, after bos
    for piece in _merged(pieces):
        if piece.control:
            number = control_id(piece.text, tokenizer)
            part = [] if number is None else [number]
            fresh = fresh if number is None else _marks_after(piece.text, tokenizer)
        else:
            part = text_ids(piece.text, tokenizer, fresh)
            fresh = False
        ids += part
        mask += [piece.trained] * len(part)
    return Encoded(ids, mask)


def _merged(pieces: Sequence[Piece]) -> Iterator[Piece]:
    held: Piece | None = None
    for piece in pieces:
        if held and not held.control and not piece.control and held.trained == piece.trained:
            held = Piece(held.text + piece.text, held.trained)
            continue
        if held:
            yield held
        held = piece
    if held:
        yield held


def control_id(token: str, tokenizer: "Tokenizer") -> int | None:
    """The id of a control token; None for ``{bos}`` where the tokenizer does not add one by itself."""
    if token == "{bos}":
        return tokenizer.bos_token_id if adds_bos(tokenizer) else None
    number = tokenizer.eos_token_id if token == "{eos}" else _token_id(token, tokenizer)
    if number is None:
        name = "end token" if token == "{eos}" else f"token '{token}'"
        raise UserError(f"the tokenizer has no {name}, which the prompt template needs: choose another template")
    return int(number)


@functools.lru_cache(maxsize=256)
def _token_id(token: str, tokenizer: "Tokenizer") -> int | None:
    return tokenizer.get_vocab().get(token)  # copies the whole vocabulary: 40 ms, so once a token


def text_ids(text: str, tokenizer: "Tokenizer", fresh: bool = True) -> list[int]:
    """Ids of plain text, control-token spellings included as text.

    Where ``fresh`` is false no word mark is put in front: a SentencePiece tokenizer (Llama) would begin every text
    with one, as if it followed a space.
    """
    encode = functools.partial(tokenizer.encode, add_special_tokens=False, split_special_tokens=True)
    if not text:
        return []
    if not fresh and marks_words(tokenizer):
        anchor, ids = encode("\n"), encode("\n" + text)
        if ids[: len(anchor)] == anchor:
            return list(ids[len(anchor) :])
    return list(encode(text))


@functools.lru_cache(maxsize=16)
def adds_bos(tokenizer: "Tokenizer") -> bool:
    """Whether the tokenizer puts its bos token in front of a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


@functools.lru_cache(maxsize=16)
def marks_words(tokenizer: "Tokenizer") -> bool:
    """Whether the tokenizer begins every text with a word mark, as SentencePiece models with a dummy prefix do."""
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    return encode("\na") != encode("\n") + encode("a")


def _marks_after(control: str, tokenizer: "Tokenizer") -> bool:
    """Whether the tokenizer begins a text right after this control token with a word mark, as at a text's start."""
    if control == "{bos}" or not marks_words(tokenizer):
        return True
    spelled = str(tokenizer.eos_token) if control == "{eos}" else control
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    return encode(spelled + "a")[1:] == encode("a")
