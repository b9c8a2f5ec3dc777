"""What is asked of Wikidata: topics and their relations, the types of entities, the names of units.

The facts are in ``vocabulary.yaml`` beside this file. Q and P numbers are integers everywhere in this room: 42 is Q42
where an item is meant and P42 where a property is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from src.errors import UserError

FILE = Path(__file__).with_suffix(".yaml")
INSTANCE_OF, SUBCLASS_OF = 31, 279
TIME, MEASURE, TEXT = "time", "measure", "text"  # types of what is no item

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Rule:
    """One relation of a topic.

    heads, tails: types that its ends may have, in English.
    of, to: properties that say it of the head, and of the tail about the head.
    transitive: a triple that follows from two others is left out.
    aliases: another name of the head in the same passage is a triple, too.
    """

    names: Mapping[str, str]
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    of: tuple[int, ...] = ()
    to: tuple[int, ...] = ()
    transitive: bool = False
    aliases: bool = False

    def allows(self, head: str, tail: str) -> bool:
        """Whether the types of the two ends fit; ``text`` stands for any."""
        return all(type in types or TEXT in types for type, types in ((head, self.heads), (tail, self.tails)))


@dataclass(frozen=True)
class Kind:
    """Entities that are called alike: their type and the topic of pages about them, and the classes above them."""

    type: str
    topic: str | None
    classes: frozenset[int]


@dataclass(frozen=True)
class Vocabulary:
    """Everything that ``vocabulary.yaml`` says. ``topics`` and ``types``: English name to the name in a language."""

    types: Mapping[str, Mapping[str, str]]
    topics: Mapping[str, Mapping[str, str]]
    rules: Mapping[str, tuple[Rule, ...]]
    kinds: tuple[Kind, ...]
    units: Mapping[int, Mapping[str, list[str]]]
    counters: Mapping[int, Mapping[str, list[str]]]

    @property
    def properties(self) -> frozenset[int]:
        """The properties that an index must hold."""
        used = {p for rules in self.rules.values() for rule in rules for p in (*rule.of, *rule.to)}
        return frozenset(used | {INSTANCE_OF, SUBCLASS_OF})

    def type_name(self, types: tuple[str, ...], language: Language) -> str:
        """The types that an end of a relation may have, as one name: ``organization/human``."""
        return "/".join(self.types[type][language] for type in types)

    def schema(self, language: Language) -> dict[str, list[list[str]]]:
        """InstructIE's schema file: topic to [``head type_relation_tail type``, …] and [relation, …]."""
        schema = {}
        for topic, rules in self.rules.items():
            strings = [
                f"{self.type_name(r.heads, language)}_{r.names[language]}_{self.type_name(r.tails, language)}"
                for r in rules
            ]
            schema[self.topics[topic][language]] = [strings, [rule.names[language] for rule in rules]]
        return schema


@lru_cache(maxsize=1)
def load_vocabulary() -> Vocabulary:
    """Read ``vocabulary.yaml``. Raises `UserError` for a type that it does not define."""
    data: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    kinds = tuple(Kind(k["type"], k.get("topic"), frozenset(map(number, k["classes"]))) for k in data["kinds"])
    vocabulary = Vocabulary(
        types={en: {"en": en, "zh": zh} for en, zh in data["types"].items()},
        topics={name: {"en": name, "zh": topic["zh"]} for name, topic in data["topics"].items()},
        rules={name: tuple(_rules(topic)) for name, topic in data["topics"].items()},
        kinds=kinds,
        units={number(unit): names for unit, names in data["units"].items()},
        counters={number(name): words for name, words in data["counters"].items()},
    )
    used = {kind.type for kind in kinds}
    used |= {t for rules in vocabulary.rules.values() for rule in rules for t in (*rule.heads, *rule.tails)}
    if unknown := used - set(vocabulary.types):
        raise UserError(f"{FILE.name} uses the type '{min(unknown)}', which is not among its types: add it there")
    return vocabulary


def _rules(topic: Mapping[str, Any]) -> Iterator[Rule]:
    for entry in topic["relations"]:
        yield Rule(
            names={"en": entry["en"], "zh": entry["zh"]},
            heads=tuple(entry.get("head", [topic["type"]])),
            tails=tuple(entry.get("tail", [TEXT])),
            of=tuple(map(number, entry.get("of", ()))),
            to=tuple(map(number, entry.get("to", ()))),
            transitive=entry.get("transitive", False),
            aliases=entry.get("aliases", False),
        )


def number(identifier: str) -> int:
    """The number of an item or property: ``Q42`` and ``P42`` are 42."""
    return int(identifier[1:])


def check_language(language: str) -> Language:
    """The language, if there are names for it. Raises `UserError`."""
    if language not in get_args(Language):
        raise UserError(f"language={language} has no names of relations: choose one of {', '.join(get_args(Language))}")
    return language  # type: ignore[return-value]
