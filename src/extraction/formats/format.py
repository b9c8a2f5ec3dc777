"""How a question is put to a model and how its answer is read: one `PromptFormat` for each family of checkpoints."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from src.errors import UserError
from src.extraction.items import Items
from src.extraction.schema import Question
from src.models.conversation import Message


class Status(StrEnum):
    """By which rung of the ladder an answer could be read (`src.extraction.formats.parsing`)."""

    EXACT = "exact"
    TRIMMED = "trimmed"
    LENIENT = "lenient"
    CLOSED = "closed"
    REPAIRED = "repaired"
    FAILED = "failed"


class Note(StrEnum):
    """What was wrong with parts of an answer that could be read."""

    HALLUCINATED_SCHEMA = "hallucinated_schema"  # a key that was not asked for
    MISSING_KEY = "missing_key"  # one that was asked for
    WRONG_SHAPE = "wrong_shape"  # a member that is not what the task's answers hold
    DUPLICATE = "duplicate"
    NOT_IN_TEXT = "not_in_text"  # a span that the text does not hold


@dataclass(frozen=True)
class Parsed:
    """What could be read of one answer.

    items: each once.
    notes: counts of what was wrong with parts of the answer.
    repeats: what it states again.
    """

    items: Items
    status: Status
    notes: Counter[Note] = field(default_factory=Counter)
    repeats: Items = field(default_factory=Items)


class PromptFormat(Protocol):
    """One way of asking.

    Attributes:
        name: as configs and commands call it.
        is_json: answers are the JSON objects that `src.extraction.constraints.grammar` can enforce.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_json(self) -> bool: ...

    def message(self, question: Question, text: str) -> Message:
        """The user's message of a prompt."""
        ...

    def answer(self, question: Question, items: Items, text: str) -> str:
        """The right answer, for training and scoring. Items that the question does not ask for are left out."""
        ...

    def parse(self, answer: str, question: Question, text: str, strict: bool = False) -> Parsed:
        """Read an answer; never raises. ``strict`` takes nothing but what is exactly as it should be."""
        ...


FORMATS = ("oneke", "knowlm", "zhixi")


def load_format(name: str) -> PromptFormat:
    """A format by its name: ``oneke`` (IEPile's JSON), ``knowlm`` (KnowLM-13B-IE's text), ``zhixi`` (ZhiXi's)."""
    if name == "oneke":
        from src.extraction.formats.oneke import OneKE

        return OneKE()
    if name in ("knowlm", "zhixi"):
        from src.extraction.formats.knowlm import KnowLM

        return KnowLM(name)
    raise UserError(f"format={name} is not known: choose one of {', '.join(FORMATS)}")
