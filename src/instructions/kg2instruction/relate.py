"""Distant supervision itself: what Wikidata knows about the items that a passage names.

Every ordered pair is looked up, so that a relation is found whichever of the two comes first in the text. Values are
searched as strings. Each fact is taken once, at its first place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

from src.errors import UserError
from src.instructions.kg2instruction.facts import Fact, TextUnit
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.mentions import Mention
from src.instructions.kg2instruction.names import name_key
from src.instructions.kg2instruction.values import find_value, renderings
from src.instructions.kg2instruction.vocabulary import Vocabulary


@dataclass(frozen=True)
class Relating:
    """How facts are found.

    scope: the two ends must stand in one ``sentence`` or in one ``paragraph``.
    values: whether dates, quantities and strings are looked for.
    bare_years: whether an English year alone may be a date.
    """

    scope: str = "sentence"
    values: bool = True
    bare_years: bool = False

    def __post_init__(self) -> None:
        if self.scope not in ("sentence", "paragraph"):
            raise UserError(f"scope={self.scope} is not known: choose sentence or paragraph")


class Relater:
    """Finds the facts of passages."""

    def __init__(self, index: KnowledgeIndex, vocabulary: Vocabulary, settings: Relating) -> None:
        self.index, self.vocabulary, self.settings = index, vocabulary, settings
        self._units = lru_cache(maxsize=4096)(self._unit_names)

    def facts(self, unit: TextUnit) -> list[Fact]:
        """The facts of a passage, each once, in the order of the text."""
        found: dict[tuple[object, ...], Fact] = {}
        for start, end in self._stretches(unit):
            mentions = [mention for mention in unit.mentions if start <= mention.start and mention.end <= end]
            for fact in self._between(mentions):
                found.setdefault((fact.head_item, fact.property, fact.tail_item), fact)
            for fact in self._aliases(mentions, unit.text):
                found.setdefault((fact.head_item, unit.text[slice(*fact.tail)]), fact)
            if self.settings.values:
                for fact in self._values(mentions, unit.text, start, end):
                    found.setdefault((fact.head_item, fact.property, unit.text[slice(*fact.tail)]), fact)
        return sorted(found.values(), key=lambda fact: (fact.head, fact.tail, fact.property or 0))

    def unrelated(self, unit: TextUnit) -> list[Fact]:
        """Pairs of items that stand in one sentence and between which Wikidata knows nothing, in either direction."""
        found: dict[tuple[int, int], Fact] = {}
        for start, end in self._stretches(unit):
            mentions = [mention for mention in unit.mentions if start <= mention.start and mention.end <= end]
            for one, other in combinations(first_mentions(mentions), 2):
                related = any(t == other.item for _, t in self.index.relations(one.item))
                related = related or any(t == one.item for _, t in self.index.relations(other.item))
                if not related:
                    fact = Fact(
                        (one.start, one.end), (other.start, other.end), "kg", head_item=one.item, tail_item=other.item
                    )
                    found.setdefault((one.item, other.item), fact)
        return list(found.values())

    def _stretches(self, unit: TextUnit) -> list[tuple[int, int]]:
        if self.settings.scope == "paragraph":
            return [(0, len(unit.text))]
        return list(zip((0, *unit.sentences[:-1]), unit.sentences, strict=True))

    def _between(self, mentions: list[Mention]) -> Iterator[Fact]:
        for one, other in permutations(first_mentions(mentions), 2):
            for property, tail in self.index.relations(one.item):
                if tail == other.item:
                    spans = ((one.start, one.end), (other.start, other.end))
                    yield Fact(*spans, "kg", property, one.item, other.item)

    @staticmethod
    def _aliases(mentions: list[Mention], text: str) -> Iterator[Fact]:
        """Other names of an item beside its first one; "Adams" is none of "Douglas Adams"."""
        firsts = {mention.item: mention for mention in first_mentions(mentions)}
        for mention in mentions:
            first = firsts[mention.item]
            name, other = text[first.start : first.end], text[mention.start : mention.end]
            if other.lower() not in name.lower() and name.lower() not in other.lower():
                spans = ((first.start, first.end), (mention.start, mention.end))
                yield Fact(*spans, "alias", None, mention.item, mention.item)

    def _values(self, mentions: list[Mention], text: str, start: int, end: int) -> Iterator[Fact]:
        language = self.index.language
        for mention in first_mentions(mentions):
            for value in self.index.values(mention.item):
                units = self._units(value.data[1]) if value.kind == "quantity" and value.data[1] else ()
                counters = self.vocabulary.counters.get(value.property, {}).get(language, [])
                spellings = renderings(value, language, units, counters, self.settings.bare_years)
                place = find_value(text, start, end, spellings, value.kind)
                if place is None or (place[0] < mention.end and mention.start < place[1]):
                    continue
                if value.kind == "text" and self._is_known_name(text[slice(*place)], mention, text):
                    continue
                yield Fact((mention.start, mention.end), place, "kg", value.property, mention.item, kind=value.kind)

    def _is_known_name(self, found: str, mention: Mention, text: str) -> bool:
        """Whether a string is the head itself, which is no other name of it."""
        language = self.index.language
        return len(found) < 2 or name_key(found, language) == name_key(text[mention.start : mention.end], language)

    def _unit_names(self, unit: int) -> tuple[str, ...]:
        own = self.vocabulary.units.get(unit, {}).get(self.index.language, [])
        return tuple(dict.fromkeys((*own, *self.index.names(unit))))


def first_mentions(mentions: list[Mention]) -> list[Mention]:
    """The first mention of each item."""
    firsts: dict[int, Mention] = {}
    for mention in mentions:
        firsts.setdefault(mention.item, mention)
    return list(firsts.values())
