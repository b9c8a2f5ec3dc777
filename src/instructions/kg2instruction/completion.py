"""Triples that a model finds beyond what Wikidata knows, joined with those that it knows.

The model is any function of a text and the names of a topic's relations that gives triples; the command makes one out
of an extraction model. Only what stands in the text is taken.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from src.instructions.kg2instruction.facts import Fact, TextUnit
from src.instructions.kg2instruction.mentions import bounded
from src.instructions.kg2instruction.vocabulary import Language, Rule


class FoundTriple(NamedTuple):
    """What a model says: strings of the text, and the name of a relation in the language of the text."""

    head: str
    relation: str
    tail: str


Complete = Callable[[str, Sequence[str]], Iterable[FoundTriple]]


def completed(unit: TextUnit, rules: Sequence[Rule], language: Language, complete: Complete) -> list[Fact]:
    """The facts of a passage and those that the model adds; of nested ones the longest stay.

    A triple is left out where its relation is not asked for, an end does not stand in the text, or both ends are the
    same; one that Wikidata gave as well stays as Wikidata's.
    """
    by_name = {rule.names[language]: rule for rule in rules}
    facts = list(unit.facts)
    for triple in complete(unit.text, list(by_name)):
        rule = by_name.get(triple.relation)
        head, tail = _place(unit.text, triple.head), _place(unit.text, triple.tail)
        if rule is None or head is None or tail is None or triple.head == triple.tail:
            continue
        fact = Fact(head, tail, "llm", rule=rule)
        if all(_texts(known, unit.text) != _texts(fact, unit.text) for known in facts):
            facts.append(fact)
    longest = [f for f in facts if f.source != "llm" or not any(_inside(f, other, unit.text) for other in facts)]
    return sorted(longest, key=lambda fact: (fact.head, fact.tail))


def _place(text: str, words: str) -> tuple[int, int] | None:
    start = text.find(words) if words.strip() else -1
    while start >= 0 and not bounded(text, start, start + len(words)):
        start = text.find(words, start + 1)
    return (start, start + len(words)) if start >= 0 else None


def _texts(fact: Fact, text: str) -> tuple[str, str, str]:
    assert fact.rule is not None
    return text[slice(*fact.head)], fact.rule.names["en"], text[slice(*fact.tail)]


def _inside(fact: Fact, other: Fact, text: str) -> bool:
    """Whether both ends of a fact lie within those of another with the same relation."""
    (head, name, tail), (other_head, other_name, other_tail) = _texts(fact, text), _texts(other, text)
    shorter = (head, tail) != (other_head, other_tail)
    return name == other_name and shorter and head in other_head and tail in other_tail
