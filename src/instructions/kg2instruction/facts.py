"""A fact that a passage states: two stretches of its text, what relates them, and how that is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from src.instructions.kg2instruction.linked_text import LinkedText
from src.instructions.kg2instruction.mentions import Mention
from src.instructions.kg2instruction.vocabulary import Language, Rule, Vocabulary

FactSource = Literal["kg", "alias", "llm"]


@dataclass(frozen=True)
class Fact:
    """A triple of a passage.

    head, tail: offsets in characters.
    head_item, tail_item: items, None for dates, quantities and strings, or where a model found it.
    kind: ``item``, ``time``, ``quantity``, ``text``: what the tail is.
    property: of Wikidata; None where it was not found there.
    rule: the relation of the topic, once it is known.
    nli: probability that the passage entails it.
    """

    head: tuple[int, int]
    tail: tuple[int, int]
    source: FactSource
    property: int | None = None
    head_item: int | None = None
    tail_item: int | None = None
    kind: str = "item"
    rule: Rule | None = None
    nli: float | None = None

    def reversed(self) -> "Fact":
        """Head and tail exchanged."""
        return replace(
            self, head=self.tail, tail=self.head, head_item=self.tail_item, tail_item=self.head_item, kind="item"
        )

    def record(self, text: str, vocabulary: Vocabulary, language: Language) -> dict[str, Any]:
        """The triple as InstructIE writes it, with offsets and provenance. Only for facts with a rule."""
        assert self.rule is not None
        origin: dict[str, Any] = {"source": self.source}
        origin |= {"property": f"P{self.property}"} if self.property is not None else {}
        origin |= {"q_head": f"Q{self.head_item}"} if self.head_item is not None else {}
        origin |= {"q_tail": f"Q{self.tail_item}"} if self.tail_item is not None else {}
        origin |= {"nli": round(self.nli, 4)} if self.nli is not None else {}
        return {
            "head": text[slice(*self.head)],
            "head_type": vocabulary.type_name(self.rule.heads, language),
            "relation": self.rule.names[language],
            "tail": text[slice(*self.tail)],
            "tail_type": vocabulary.type_name(self.rule.tails, language),
            "head_span": list(self.head),
            "tail_span": list(self.tail),
            "provenance": origin,
        }


@dataclass
class TextUnit:
    """A passage of a page on its way to a record. Offsets are counted from its own start."""

    title: str
    page_item: int
    text: str
    sentences: tuple[int, ...]
    mentions: Sequence[Mention]
    topic: str | None = None
    facts: Sequence[Fact] = ()
    unrelated: Sequence[Fact] = ()


@dataclass
class PageUnit:
    """A page with its mentions, before it is cut into passages."""

    title: str
    linked: LinkedText
    item: int
    mentions: Sequence[Mention]
