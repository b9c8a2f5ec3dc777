"""A small bilingual (Chinese and English) extraction set that anybody can make again from a seed.

Each example is one instruction that names relations, one or two clauses about invented entities that state one to
three of them, and the triples, one a line, in KnowLM-13B-IE's text form ``(head,relation,tail)``, in the order in which
the instruction names the relations. The names and the sentences are in ``synthetic_ie.yaml`` beside this file.

The split is by entity: every name is dealt to one side before any sentence is written, and a training text that
happens to contain a test name inside another word is thrown away. What a score on the test side measures is therefore
reading, not remembering. The sentence frames are shared by both sides: this is a set for showing that tuning works in
minutes, not a benchmark.
"""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from src.errors import UserError

PARTS = Path(__file__).with_suffix(".yaml")
TEST_SHARE = 0.25  # of the names of every kind


class Fact(NamedTuple):
    """One triple: head entity, relation, tail entity."""

    head: str
    relation: str
    tail: str


@dataclass(frozen=True)
class Example:
    """One instruction with its text and the facts it states, in the order the instruction asks for."""

    id: str
    language: str
    instruction: str
    input: str
    facts: tuple[Fact, ...]

    @property
    def output(self) -> str:
        """The answer: one ``(head,relation,tail)`` a line."""
        return "\n".join(f"({fact.head},{fact.relation},{fact.tail})" for fact in self.facts)

    def record(self) -> dict[str, str]:
        """The example in alpaca's fields."""
        fields = {"id": self.id, "language": self.language, "instruction": self.instruction, "input": self.input}
        return fields | {"output": self.output}


@dataclass(frozen=True)
class Split:
    """The two sides of the set; no entity is on both."""

    train: list[Example]
    test: list[Example]


def make(seed: int = 0, n_train: int = 1200, n_test: int = 100, languages: Sequence[str] = ("en", "zh")) -> Split:
    """Make the set: as many examples of each language as of the others, in an order of its own.

    The same arguments give the same set on every machine. UserError where a language has no parts, or where the names
    do not suffice for so many different texts.
    """
    parts: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(PARTS))  # type: ignore[assignment]
    if unknown := [language for language in languages if language not in parts] or not languages:
        raise UserError(f"no sentences for {unknown or 'no language'}: choose languages among {', '.join(parts)}")
    if n_train < 0 or n_test < 0:
        raise UserError(f"{n_train} training and {n_test} test examples were asked for: give numbers from 0 up")
    sides = {
        language: _Language(language, parts[language], random.Random(f"{seed}:{language}")) for language in languages
    }
    split = Split([], [])
    for examples, side, number in ((split.test, "test", n_test), (split.train, "train", n_train)):
        turns = itertools.islice(itertools.cycle(languages), number)
        examples += [sides[language].example(side, index) for index, language in enumerate(turns)]
        random.Random(f"{seed}:{side}").shuffle(examples)
    return split


def write(folder: str | Path, seed: int = 0, n_train: int = 1200, n_test: int = 100, **options: Any) -> Split:
    """Write ``train.jsonl`` and ``test.jsonl`` (alpaca fields, UTF-8) into a folder, which is made."""
    split = make(seed, n_train, n_test, **options)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for side, examples in (("train", split.train), ("test", split.test)):
        lines = [json.dumps(example.record(), ensure_ascii=False) for example in examples]
        (target / f"{side}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return split


class _Language:
    """The names and sentences of one language, and a random stream of its own."""

    def __init__(self, language: str, parts: dict[str, Any], stream: random.Random):
        self.language, self.parts, self.stream = language, parts, stream
        self.names = {kind: self._deal(lists) for kind, lists in parts["names"].items()}
        self.seen: set[str] = set()
        self.test_names: set[str] = set()  # those the test examples really use

    def _deal(self, lists: list[list[str]]) -> dict[str, list[str]]:
        names = sorted({"".join(choice) for choice in itertools.product(*lists)})
        self.stream.shuffle(names)
        cut = int(len(names) * TEST_SHARE)
        return {"test": names[:cut], "train": names[cut:]}

    def example(self, side: str, index: int) -> Example:
        for _ in range(1000):
            pattern = self.stream.choice(self.parts["texts"])
            filled = dict(self._fill(pattern, side))
            text = self.stream.choice(pattern["say"]).format(**filled)
            if text in self.seen or (side == "train" and any(name in text for name in self.test_names)):
                continue
            self.seen.add(text)
            if side == "test":
                self.test_names |= {name for slot, name in filled.items() if f"{{{slot}}}" in "".join(pattern["say"])}
            return self._asked(pattern["facts"], filled, text, f"{self.language}-{side}-{index:05d}")
        raise UserError(f"the {self.language} names do not give more than {len(self.seen)} texts: ask for fewer")

    def _fill(self, pattern: dict[str, Any], side: str) -> Iterator[tuple[str, str]]:
        kinds = {"book": "work", "film": "work", "city2": "city"}
        taken: set[str] = set()
        for slot in ("person", "city", "city2", "company", "country", "book", "film", "product"):
            if any(f"{{{slot}}}" in say for say in pattern["say"]):
                names = self.names[kinds.get(slot, slot)][side]
                name = self.stream.choice([name for name in names if name not in taken])
                taken.add(name)
                yield slot, name

    def _asked(self, keys: list[str], filled: dict[str, str], text: str, name: str) -> Example:
        stated = {}
        for key in keys:
            head, relation, tail = self.parts["facts"][key]
            place = "city2" if key == "seat" and "city2" in filled else tail
            stated[relation] = Fact(filled[head], relation, filled[place])
        others = [relation for _, relation, _ in self.parts["facts"].values() if relation not in stated]
        asked = [*stated, *self.stream.sample(others, self.stream.randint(0, 2) if len(stated) < 3 else 0)]
        self.stream.shuffle(asked)
        instruction = self.parts["instruction"].format(relations=self.parts["separator"].join(asked))
        facts = tuple(stated[relation] for relation in asked if relation in stated)
        return Example(name, self.language, instruction, text, facts)
