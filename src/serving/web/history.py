"""Conversations as the browser keeps them: a few dozen, the newest first, nothing on the server."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_CONVERSATIONS = 40
MAX_CHARACTERS = 300_000  # of all conversations; they travel between browser and server with each answer
TITLE_LENGTH = 40

Turn = dict[str, str]  # role and content


def _new_id() -> str:
    return secrets.token_hex(6)


@dataclass(frozen=True)
class Conversation:
    """One conversation. turns: messages of user and assistant in turn."""

    id: str = field(default_factory=_new_id)
    system: str = ""
    turns: tuple[Turn, ...] = ()

    @property
    def title(self) -> str:
        """The beginning of its first message; empty before there is one."""
        first = " ".join(next((turn["content"] for turn in self.turns if turn["role"] == "user"), "").split())
        return first if len(first) <= TITLE_LENGTH else first[: TITLE_LENGTH - 1] + "…"

    @property
    def size(self) -> int:
        return len(self.system) + sum(len(turn["content"]) for turn in self.turns)


@dataclass(frozen=True)
class History:
    """All conversations of one browser, the one written to last first. current: the id of the one on the page."""

    conversations: tuple[Conversation, ...] = ()
    current: str | None = None

    @classmethod
    def read(cls, stored: Any) -> "History":
        """What the browser stored, which may be anything: what is no conversation is left out."""
        stored = stored if isinstance(stored, dict) else {}
        rows = stored.get("conversations")
        found = [_read(row) for row in rows] if isinstance(rows, list) else []
        conversations = tuple(one for one in found if one is not None)
        current = stored.get("current")
        return cls(conversations, current if current in [one.id for one in conversations] else None)

    def stored(self) -> dict[str, Any]:
        """For the browser; `read` gives it back."""
        return asdict(self)

    def get(self, id: str | None) -> Conversation | None:
        return next((one for one in self.conversations if one.id == id), None)

    def put(self, conversation: Conversation) -> "History":
        """With this conversation new or changed, and current; the oldest are dropped where there are too many.

        One that is too long by itself is not kept; what was kept of it before, and all others, stay as they are.
        """
        if conversation.size > MAX_CHARACTERS:
            return self.select(conversation.id)
        kept, size = [conversation], conversation.size
        for one in self.conversations:
            size += one.size if one.id != conversation.id else 0
            if size > MAX_CHARACTERS or len(kept) == MAX_CONVERSATIONS:
                break
            if one.id != conversation.id:
                kept.append(one)
        return History(tuple(kept), conversation.id)

    def select(self, id: str | None) -> "History":
        """With another conversation current; None begins a new one."""
        return History(self.conversations, id if self.get(id) else None)

    def delete(self, id: str | None) -> "History":
        """Without this conversation; a new one begins if it was the current one."""
        rest = tuple(one for one in self.conversations if one.id != id)
        return History(rest, self.current if self.current != id else None)


def until_question(turns: Sequence[Turn], index: int | None = None) -> tuple[Turn, ...]:
    """The turns up to the last message of the user, at ``index`` or before it."""
    end = len(turns) if index is None else min(index + 1, len(turns))
    while end and turns[end - 1]["role"] != "user":
        end -= 1
    return tuple(turns[:end])


def plain(messages: Any) -> tuple[Turn, ...]:
    """Turns from what a chat component holds, where content may be a list of parts."""
    return tuple({"role": str(one["role"]), "content": _text(one["content"])} for one in messages or [])


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, dict):
        return str(content.get("text") or "")
    return str(content or "")


def _read(row: Any) -> Conversation | None:
    if not isinstance(row, dict) or not isinstance(row.get("turns"), list | tuple):
        return None
    turns = tuple(turn for turn in row["turns"] if _is_turn(turn))
    if not isinstance(row.get("id"), str) or len(turns) < len(row["turns"]):
        return None
    return Conversation(row["id"], str(row.get("system") or ""), turns)


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and turn["role"] in ("user", "assistant")
        and isinstance(turn["content"], str)
    )
