"""IEPile's converted records back into questions and items: ``{task, source, instruction, output}`` and test records.

``instruction`` is the JSON object that `src.extraction.formats.oneke` writes, in any of the wordings in circulation.
Several records of one text, one for each portion of the schema, follow each other; `read_samples` puts them together.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.formats.answers import items_of_answer
from src.extraction.formats.format import Note
from src.extraction.formats.oneke import task_of_instruction
from src.extraction.items import Items, Sample, items_from_record
from src.extraction.readers.rejects import RejectedError, Rejects
from src.extraction.readers.rows import read_rows
from src.extraction.schema import (
    Element,
    EntityType,
    EventType,
    Example,
    Question,
    RecordType,
    RelationType,
    Role,
    Task,
)

KINDS = {Task.NER: "entity", Task.RE: "relation", Task.SPO: "relation", Task.KG: "relation"}


def read_questions(path: str | Path, rejects: Rejects | None = None) -> Iterator[tuple[Question, Sample]]:
    """Each record of a training or test file as what it asks and what the answer is, in the file's order."""
    file = Path(path)
    found = rejects if rejects is not None else Rejects()
    for number, row in read_rows(file, found):
        try:
            yield read_converted(row)
        except RejectedError as error:
            found.add(file, number, error, row)


def read_converted(record: Mapping[str, Any]) -> tuple[Question, Sample]:
    """One record. Raises `RejectedError`."""
    asked = instruction_object(record)
    if asked is None:
        raise RejectedError("instruction is not a JSON object", f"{record.get('instruction')!r:.80}")
    text = asked["input"]
    if not isinstance(text, str) or not text.strip():
        raise RejectedError("no text", f"input is {text!r:.60}")
    question = _question(record, asked)
    items = Items()
    if "output" in record:
        items = _answered(question, record["output"])
    elif "label" in record:
        items = _labelled(question.task, record["label"])
    return question, Sample(str(record.get("id") or ""), text, items, str(record.get("source") or ""))


def instruction_object(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The instruction of a converted record; None where it is not one."""
    instruction = record.get("instruction")
    if not isinstance(instruction, str) or not instruction.lstrip().startswith("{"):
        return None
    try:
        asked = json.loads(instruction)
    except json.JSONDecodeError:
        return None
    return asked if isinstance(asked, dict) and {"instruction", "schema", "input"} <= set(asked) else None


def _question(record: Mapping[str, Any], asked: Mapping[str, Any]) -> Question:
    known = task_of_instruction(str(asked["instruction"]))
    if known is None:
        raise RejectedError("instruction of no known task", f"{asked['instruction']!r:.80}")
    task, language = known
    if (named := str(record.get("task") or "").lower()) in {each.value for each in Task}:
        task = Task(named)  # RE and SPO share their words
    elif task is Task.RE and any(isinstance(each, Mapping) for each in asked["schema"]):
        task = Task.SPO
    try:
        elements, triggers = _elements(task, asked["schema"])
        examples = tuple(Example(each["input"], each["output"]) for each in asked.get("example") or ())
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectedError("schema of another shape", f"{asked['schema']!r:.80}") from error
    return Question(task, elements, language, triggers, examples)


def _elements(task: Task, schema: Any) -> tuple[tuple[Element, ...], dict[str, tuple[str, ...]]]:
    triggers: dict[str, tuple[str, ...]] = {}
    if task in (Task.NER, Task.RE, Task.EET):
        kinds: dict[Task, Any] = {Task.NER: EntityType, Task.RE: RelationType, Task.EET: EventType}
        if isinstance(schema, Mapping):
            return tuple(kinds[task](name, description=_text(about, name)) for name, about in schema.items()), triggers
        return tuple(kinds[task](str(name)) for name in schema), triggers
    if isinstance(schema, Mapping):  # events with descriptions
        schema = [{"event_type": name, **about} for name, about in schema.items()]
    found: list[Element] = []
    for each in schema:
        if task is Task.SPO:
            found.append(RelationType(each["predicate"], each["subject_type"], each["object_type"]))
        elif task is Task.KG:
            found.append(RecordType(each["entity_type"], _roles(each["attributes"])))
        else:
            name = each["event_type"]
            found.append(EventType(name, _roles(each["arguments"]), _text(each.get(name), name)))
            if isinstance(each.get("trigger"), list):
                triggers[name] = tuple(each["trigger"])
    return tuple(found), triggers


def _roles(roles: Any) -> tuple[Role, ...]:
    if isinstance(roles, Mapping):
        return tuple(Role(name, _text(about, name)) for name, about in roles.items())
    return tuple(Role(str(role)) for role in roles)


def _text(about: Any, name: str) -> str:
    """A description; a name that describes itself has none."""
    return about if isinstance(about, str) and about != name else ""


def _answered(question: Question, output: Any) -> Items:
    try:
        answer = json.loads(output) if isinstance(output, str) else output
    except json.JSONDecodeError as error:
        raise RejectedError("output is not JSON", f"{error}") from error
    if not isinstance(answer, dict):
        raise RejectedError("output is not an object", f"{output!r:.80}")
    notes: Counter[Note] = Counter()
    items = items_of_answer(question, answer, notes)
    if wrong := notes[Note.WRONG_SHAPE] + notes[Note.HALLUCINATED_SCHEMA]:
        raise RejectedError("output does not answer the instruction", f"{wrong} parts of {output!r:.200}")
    return items


def _labelled(task: Task, label: Any) -> Items:
    try:
        gold = json.loads(label) if isinstance(label, str) else label
        return items_from_record({KINDS.get(task, "event"): gold})
    except (json.JSONDecodeError, UserError) as error:
        raise RejectedError("label of another shape", str(error)) from error
