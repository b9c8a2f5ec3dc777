"""What kind of thing an item is, and from Wikidata's properties to the relations of a topic.

What does not belong into the records of the topic is dropped here.
"""

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import replace
from functools import lru_cache

from src.instructions.kg2instruction.facts import Fact
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.vocabulary import (
    INSTANCE_OF,
    MEASURE,
    SUBCLASS_OF,
    TEXT,
    TIME,
    Kind,
    Rule,
    Vocabulary,
)

Edge = tuple[int | None, int | None]
VALUE_TYPES = {"time": TIME, "quantity": MEASURE, "text": TEXT}


MAX_LEVELS = 10
UNKNOWN = Kind(TEXT, None, frozenset())


class Kinds:
    """Looks up the kinds of items by climbing from P31 through P279, level by level, to the nearest known class."""

    def __init__(self, index: KnowledgeIndex, vocabulary: Vocabulary) -> None:
        self._index = index
        self._kinds = vocabulary.kinds
        self.kind = lru_cache(maxsize=1 << 16)(self._kind)
        self._parents = lru_cache(maxsize=1 << 16)(lambda c: index.classes(c, SUBCLASS_OF))

    def _kind(self, item: int) -> Kind:
        """The kind of an item; `UNKNOWN` where no class above it is known."""
        level = set(self._index.classes(item, INSTANCE_OF)) or set(self._parents(item))  # a class is of its own kind
        seen: set[int] = set()
        for _ in range(MAX_LEVELS + 1):
            if not level:
                break
            for kind in self._kinds:
                if not kind.classes.isdisjoint(level):
                    return kind
            seen |= level
            level = {parent for one in level for parent in self._parents(one)} - seen
        return UNKNOWN


class SchemaLimit:
    """Gives facts the relations of a topic.

    dropped: why facts were left out: their property is not in the topic, the type of an end does not fit, or they
    follow from two others.
    """

    def __init__(self, kinds: Kinds, vocabulary: Vocabulary) -> None:
        self.kinds, self.vocabulary = kinds, vocabulary
        self.dropped: Counter[str] = Counter()

    def limit(self, facts: Iterable[Fact], topic: str) -> list[Fact]:
        """The facts that the topic has a relation for, each once, in the order of the text."""
        kept: dict[tuple[object, ...], Fact] = {}
        for fact in facts:
            found = [f for f in self._named(fact, self.vocabulary.rules[topic]) if self._fits(f)]
            for one in found:
                assert one.rule is not None
                kept.setdefault((one.rule.names["en"], one.head, one.tail), one)
        return sorted(self._reduced(list(kept.values())), key=lambda f: (f.head, f.tail))

    def _named(self, fact: Fact, rules: Iterable[Rule]) -> list[Fact]:
        """The fact under each relation that its property has in the topic, turned round where that says it so."""
        if fact.source == "alias":
            found = [replace(fact, rule=rule) for rule in rules if rule.aliases]
        else:
            rules = list(rules)
            found = [replace(fact, rule=rule) for rule in rules if fact.property in rule.of]
            if fact.kind == "item":
                found += [replace(fact.reversed(), rule=rule) for rule in rules if fact.property in rule.to]
        if not found:
            self.dropped["relation_not_in_topic"] += 1
        return found

    def _fits(self, fact: Fact) -> bool:
        assert fact.rule is not None and fact.head_item is not None
        head = self.kinds.kind(fact.head_item).type
        if fact.kind == "text":  # a name or a word, of no type of its own
            fits = head in fact.rule.heads and not {TIME, MEASURE} & set(fact.rule.tails)
        else:
            tail = VALUE_TYPES.get(fact.kind) or self.kinds.kind(fact.tail_item or 0).type
            fits = fact.rule.allows(head, tail)
        if not fits:
            self.dropped["type_does_not_fit"] += 1
        return fits

    def _reduced(self, facts: list[Fact]) -> list[Fact]:
        """Without the triples of transitive relations that follow from two others (in A, in B, B in A: in B goes)."""
        kept = list(facts)
        for name in dict.fromkeys(f.rule.names["en"] for f in facts if f.rule is not None and f.rule.transitive):
            edges = {(f.head_item, f.tail_item) for f in facts if f.rule is not None and f.rule.names["en"] == name}
            implied = {edge for edge in edges if _follows(edge, edges)}
            before = len(kept)
            kept = [
                f
                for f in kept
                if f.rule is None or f.rule.names["en"] != name or (f.head_item, f.tail_item) not in implied
            ]
            self.dropped["follows_from_others"] += before - len(kept)
        return kept


def _follows(edge: Edge, edges: Set[Edge]) -> bool:
    """Whether an item lies between head and tail. One that is in a circle with either of them does not."""
    head, tail = edge
    beyond = _reached(tail, edges)
    if head in beyond:
        return False
    between = _reached(head, edges) - beyond - {tail}
    return any(tail in (ahead := _reached(item, edges)) and head not in ahead for item in between)


def _reached(start: int | None, edges: Set[Edge]) -> set[int | None]:
    """What can be reached from an item."""
    seen: set[int | None] = set()
    ahead = [start]
    while ahead:
        item = ahead.pop()
        new = {b for a, b in edges if a == item} - seen
        seen |= new
        ahead += new
    return seen
