"""What a training record asks for besides what its text holds: the types that the model must learn not to find.

IEPile's three ways (arXiv 2402.14710, section 3.2):

- all: the whole schema;
- random: the positives and a random share of the others;
- hard: the positives, the types most easily taken for them, and a few random others.

Which types are easily confused comes from a dictionary, IEPile's or one that `build_hard` makes out of the schema.
Every choice is made by the generator that is given, over labels in the schema's order: the same seed gives the same.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from src.errors import UserError
from src.extraction.items import Items
from src.extraction.schema import Element, EventType, RecordType, RelationType, Role, Task

Negatives = Literal["all", "random", "hard"]
Hard = Mapping[str, Sequence[str]]

NEIGHBOURS = 4  # of a type, by the similarity of names
GRAM = 2  # characters


def label_of(element: Element) -> str:
    """The name under which a dictionary of hard negatives knows an element: SPO's with their types."""
    if isinstance(element, RelationType) and element.head_type and element.tail_type:
        return f"{element.head_type}_{element.name}_{element.tail_type}"
    return element.name


def is_positive(element: Element, items: Items) -> bool:
    """Whether a text holds any of what an element asks for."""
    if isinstance(element, EventType):
        return any(event.type == element.name for event in items.events)
    if isinstance(element, RelationType):
        return any(
            relation.relation == element.name
            and element.head_type in ("", relation.head_type)
            and element.tail_type in ("", relation.tail_type)
            for relation in items.relations
        )
    if isinstance(element, RecordType):
        names = {role.name for role in element.attributes}
        return any(entity.type == element.name for entity in items.entities) or any(
            relation.relation in names and relation.head_type in ("", element.name) for relation in items.relations
        )
    return any(entity.type == element.name for entity in items.entities)


def chosen_elements(
    elements: Sequence[Element],
    items: Items,
    way: Negatives,
    split_num: int,
    rng: random.Random,
    hard: Hard | None = None,
    ratio: float = 1.0,
) -> list[Element]:
    """The elements that a text's training records ask for, positives and negatives, in the schema's order.

    Args:
        hard: label → labels that are easily taken for it; one that it does not know has none.
        ratio: share of the negatives that are taken (random), and of those for a text without positives (hard: half).
    """
    positives = [index for index, element in enumerate(elements) if is_positive(element, items)]
    others = [index for index in range(len(elements)) if index not in set(positives)]
    if way == "all":
        taken = others
    elif way == "random":
        taken = _some(others, ratio, rng, at_least=0 if positives else 1)
    else:
        taken = _hard(elements, positives, others, hard or {}, split_num, rng, ratio)
    kept = sorted({*positives, *taken})
    return [_with_roles(elements[index], items, way, ratio, rng) for index in kept]


def _some(indices: Sequence[int], ratio: float, rng: random.Random, at_least: int) -> list[int]:
    """A share of some indices, drawn without replacement; its size is binomially distributed."""
    if ratio >= 1:
        return list(indices)
    count = sum(rng.random() < ratio for _ in indices)
    return rng.sample(list(indices), min(len(indices), max(at_least, count)))


def _hard(
    elements: Sequence[Element],
    positives: Sequence[int],
    others: Sequence[int],
    hard: Hard,
    split_num: int,
    rng: random.Random,
    ratio: float,
) -> list[int]:
    if not positives:
        return _some(others, ratio / 2, rng, at_least=1)
    near = {label for index in positives for label in hard.get(label_of(elements[index]), ())}
    taken = [index for index in others if label_of(elements[index]) in near]
    rest = [index for index in others if label_of(elements[index]) not in near]
    count = len(rest) if split_num < 1 else min(split_num, len(rest))
    return taken + rng.sample(rest, count)


def _with_roles(element: Element, items: Items, way: Negatives, ratio: float, rng: random.Random) -> Element:
    """An event type with a share of its roles where negatives are random; the roles that are filled stay."""
    if way != "random" or ratio >= 1 or not isinstance(element, EventType):
        return element
    filled = {a.role for event in items.events if event.type == element.name for a in event.arguments}
    others = [index for index, role in enumerate(element.roles) if role.name not in filled]
    taken = set(_some(others, ratio, rng, at_least=0 if filled else 1))
    roles = tuple(role for index, role in enumerate(element.roles) if role.name in filled or index in taken)
    return replace(element, roles=roles)


def shuffled(elements: Sequence[Element], rng: random.Random) -> list[Element]:
    """The elements in random order, and the roles of each, so that a model does not learn one order."""

    def mixed(roles: Sequence[Role]) -> tuple[Role, ...]:
        return tuple(rng.sample(list(roles), len(roles)))

    found: list[Element] = []
    for element in rng.sample(list(elements), len(elements)):
        if isinstance(element, EventType):
            element = replace(element, roles=mixed(element.roles))
        elif isinstance(element, RecordType):
            element = replace(element, attributes=mixed(element.attributes))
        found.append(element)
    return found


# Dictionaries of hard negatives


def read_hard(path: str | Path, task: Task, dataset: str) -> dict[str, list[str]]:
    """The part of a dictionary file that is for a task and a data set: task → data set → label → [label, …].

    Raises:
        UserError: the file is missing, of another form, or knows no such data set.
    """
    try:
        data: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"no dictionary of hard negatives at {path} ({error.strerror}): leave it out or mend it"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}): it holds task → data set → label → [label, …]") from None
    parts = data.get(task.name) if isinstance(data, dict) else None
    if not isinstance(parts, dict) or not isinstance(parts.get(dataset), dict):
        known = ", ".join(parts) if isinstance(parts, dict) else "nothing"
        raise UserError(
            f"{path} has no data set '{dataset}' for task={task}: it knows {known}; name one, or leave it out"
        )
    return {str(label): list(map(str, labels)) for label, labels in parts[dataset].items()}


def build_hard(elements: Sequence[Element], neighbours: int = NEIGHBOURS) -> dict[str, list[str]]:
    """A dictionary out of the schema: for each label those of the most similar names, by their character bigrams.

    Relations between the same two types are always hard negatives of each other.
    """
    labels = [label_of(element) for element in elements]
    grams = [_grams(element.name) for element in elements]
    found = {}
    for index, element in enumerate(elements):
        close = [other for other in range(len(elements)) if other != index and _same_types(element, elements[other])]
        likeness = {other: _cosine(grams[index], grams[other]) for other in range(len(elements)) if other != index}
        ranked = sorted(
            (other for other in likeness if likeness[other] > 0), key=lambda other: (-likeness[other], other)
        )
        taken = sorted({*close, *ranked[:neighbours]})
        found[labels[index]] = [labels[other] for other in taken]
    return found


def _same_types(one: Element, other: Element) -> bool:
    if not isinstance(one, RelationType) or not isinstance(other, RelationType) or not one.head_type:
        return False
    return (one.head_type, one.tail_type) == (other.head_type, other.tail_type)


def _grams(name: str) -> Counter[str]:
    text = f" {name.casefold()} "
    return Counter(text[start : start + GRAM] for start in range(len(text) - GRAM + 1))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    product = sum(count * other[gram] for gram, count in one.items())
    norms = math.sqrt(sum(n * n for n in one.values()) * sum(n * n for n in other.values()))
    return product / norms if norms else 0.0
