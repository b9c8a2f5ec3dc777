"""A schema in the portions that one prompt asks for: few types at a time, as IEPile's models were trained.

IEPile's law (arXiv 2402.14710, ``split_num``): n elements in portions of s give floor(n / s) full ones, at least one;
what remains is a portion of its own when it is at least max(1, s // 2) long, else it joins the last one. The order is
the schema's.

Beside that law: elements that share a name would be one key of one answer (SPO relations between different types, the
halves of a large event), so they are put into different portions; and an event or record type with many roles is asked
for in parts, because ``split_num`` counts types and not roles. Answers are put together again by trigger or entity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from src.errors import UserError
from src.extraction.schema import Element, EventType, Example, Language, Question, RecordType, Role, Schema, Task

SPLIT_NUM: Mapping[Task, int] = {
    Task.NER: 6,
    Task.RE: 4,
    Task.SPO: 4,
    Task.EE: 4,
    Task.EET: 4,
    Task.EEA: 4,
    Task.KG: 1,
}
WHOLE = -1  # split_num that asks for everything at once
MAX_ROLES = 12


def questions(
    schema: Schema,
    task: Task,
    split_num: int | None = None,
    language: Language | None = None,
    triggers: Mapping[str, Sequence[str]] | None = None,
    examples: Sequence[Example] = (),
    max_roles: int | None = MAX_ROLES,
) -> list[Question]:
    """Everything that a task asks of a text, in portions.

    Args:
        split_num: elements in a portion; None: as the checkpoints were trained (`SPLIT_NUM`), -1: no portions.
        language: of the prompt; None: the schema's.
        triggers: for EEA, the triggers found of each event type; types without any are not asked for.
        examples: shown in each prompt, their answers cut to what it asks for.
        max_roles: roles or attributes of one element; None: all.

    Raises:
        UserError: ``split_num`` or ``max_roles`` is impossible, or the schema has nothing for the task.
    """
    elements: Sequence[Element] = schema.elements(task)
    known = {name: tuple(words) for name, words in (triggers or {}).items()}
    if task is Task.EEA and triggers is not None:
        elements = [element for element in elements if element.name in known]
    return [
        question_of(task, batch, language or schema.language, known, examples)
        for batch in batches(elements, split_num_of(task, split_num), max_roles if task is not Task.EET else None)
    ]


def question_of(
    task: Task,
    elements: Sequence[Element],
    language: Language,
    triggers: Mapping[str, tuple[str, ...]] | None = None,
    examples: Sequence[Example] = (),
) -> Question:
    """One portion as a question; triggers and examples are cut to what it asks for."""
    names = {element.name for element in elements}
    return Question(
        task,
        tuple(elements),
        language,
        {name: words for name, words in (triggers or {}).items() if name in names},
        tuple(Example(example.text, _cut(example.answer, task, elements)) for example in examples),
    )


def split_num_of(task: Task, split_num: int | None) -> int:
    """The size of portions: the one given, or the task's own. Raises `UserError` for one that can't be."""
    if split_num is None:
        return SPLIT_NUM[task]
    if split_num != WHOLE and split_num < 1:
        raise UserError(f"split_num={split_num} can't be: give 1 or more types a prompt, or -1 for all at once")
    return split_num


def batches(elements: Sequence[Element], split_num: int, max_roles: int | None = None) -> list[tuple[Element, ...]]:
    """Elements in portions of ``split_num`` by the law above; names in a portion are unique."""
    if max_roles is not None and max_roles < 1:
        raise UserError(f"max_roles={max_roles} can't be: give 1 or more, or null for all at once")
    parts = [part for element in elements for part in _parts(element, max_roles)]
    ordered = _repeated_last(parts)
    edges = accumulate(batch_sizes(len(ordered), split_num), initial=0)
    found = [ordered[start:end] for start, end in pairwise(edges)]
    return [tuple(batch) for batch in _without_repeats(found, split_num)]


def batch_sizes(count: int, split_num: int) -> list[int]:
    """How many elements each portion holds."""
    if count == 0:
        return []
    if split_num == WHOLE or count <= split_num:
        return [count]
    full, rest = divmod(count, split_num)
    sizes = [split_num] * full
    if rest >= max(1, split_num // 2):
        sizes.append(rest)
    elif rest:
        sizes[-1] += rest
    return sizes


def _parts(element: Element, max_roles: int | None) -> list[Element]:
    """An element with many roles as several with as equal numbers of them as can be, in order."""
    if isinstance(element, EventType):
        return [replace(element, roles=chunk) for chunk in _chunks(element.roles, max_roles)]
    if isinstance(element, RecordType):
        return [replace(element, attributes=chunk) for chunk in _chunks(element.attributes, max_roles)]
    return [element]


def _chunks(roles: tuple[Role, ...], max_roles: int | None) -> list[tuple[Role, ...]]:
    count = max(1, -(-len(roles) // max_roles)) if max_roles else 1
    edges = [len(roles) * number // count for number in range(count + 1)]
    return [roles[start:end] for start, end in pairwise(edges)]


def _repeated_last(elements: Sequence[Element]) -> list[Element]:
    """First the first element of each name, then the second ones, and so on: keeps most repeats apart."""
    seen: dict[str, int] = {}
    waves: dict[int, list[Element]] = {}
    for element in elements:
        wave = seen[element.name] = seen.get(element.name, -1) + 1
        waves.setdefault(wave, []).append(element)
    return [element for wave in sorted(waves) for element in waves[wave]]


def _without_repeats(found: list[list[Element]], split_num: int) -> list[list[Element]]:
    """Move each repeat of a name within a portion to the shortest portion that has none and room, or to a new one."""
    kept: list[list[Element]] = []
    repeats: list[Element] = []
    for batch in found:
        unique: dict[str, Element] = {}
        for element in batch:
            if unique.setdefault(element.name, element) is not element:
                repeats.append(element)
        kept.append(list(unique.values()))
    for element in repeats:
        free = [batch for batch in kept if all(other.name != element.name for other in batch)]
        room = [batch for batch in free if split_num == WHOLE or len(batch) < split_num]
        if room:
            min(room, key=len).append(element)
        else:
            kept.append([element])
    return kept


def _cut(answer: Mapping[str, Any], task: Task, elements: Sequence[Element]) -> dict[str, Any]:
    """An example's answer for the elements asked for; what it does not mention is absent."""
    cut: dict[str, Any] = {}
    for element in elements:
        value = answer.get(element.name, {} if task is Task.KG else [])
        if isinstance(element, EventType) and task is not Task.EET and isinstance(value, list):
            roles = {role.name for role in element.roles}
            value = [_cut_event(event, roles) for event in value]
        cut[element.name] = value
    return cut


def _cut_event(event: Any, roles: set[str]) -> Any:
    if not isinstance(event, Mapping) or not isinstance(event.get("arguments"), Mapping):
        return event
    arguments = {role: value for role, value in event["arguments"].items() if role in roles}
    return {**event, "arguments": arguments}
