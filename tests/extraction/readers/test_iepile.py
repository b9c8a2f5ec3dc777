"""Converted records back to questions and items."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.extraction.formats.oneke import OneKE
from src.extraction.items import Items
from src.extraction.readers import Rejects, read_samples
from src.extraction.readers.iepile import read_converted, read_questions
from src.extraction.readers.rejects import RejectedError
from src.extraction.readers.schemas import read_schema
from src.extraction.schema import EntityType, EventType, RelationType, Role, Task
from src.extraction.training.convert import Conversion, training_questions, training_records
from tests.extraction.ie_data import ie_data

TASKS = ["NER", "RE", "SPO", "EE", "EET", "EEA", "KG"]


def record(schema: Any, output: Any, task: str | None = None, sentence: str = "") -> dict[str, Any]:
    words = sentence or "You are an expert in named entity recognition. …"
    asked = {"instruction": words, "schema": schema, "input": "Li Wei spoke"}
    row = {"instruction": json.dumps(asked), "output": output if isinstance(output, str) else json.dumps(output)}
    return row | ({"task": task} if task else {})


@pytest.mark.parametrize("task", TASKS)
def test_converted_records_are_read_as_the_questions_and_samples_they_came_from(task: str, tmp_path: Path) -> None:
    schema = read_schema(ie_data(f"iepile_format/{task}/schema.json"))
    conversion = Conversion(Task.named(task), schema, max_roles=None)
    samples = list(read_samples(ie_data(f"iepile_format/{task}/sample.json")))
    file = tmp_path / "train.jsonl"
    lines = [json.dumps(row) + "\n" for sample in samples for row in training_records(sample, conversion)]
    file.write_text("".join(lines), "utf-8")
    questions = [question for sample in samples for question in training_questions(sample, conversion)]
    read = list(read_questions(file))
    assert [question for question, _ in read] == questions
    again = list(read_samples(file))
    assert [sample.text for sample in again] == [sample.text for sample in samples]
    for old, new in zip(samples, again, strict=True):
        for question in training_questions(old, conversion):
            answers = (OneKE().answer(question, sample.items, old.text) for sample in (old, new))
            assert len(set(answers)) == 1


@pytest.mark.parametrize("task", TASKS)
def test_published_training_and_test_files_hold_the_samples(task: str) -> None:
    expected = [sample.text for sample in read_samples(ie_data(f"iepile_format/{task}/sample.json"))]
    for part in ("train", "test"):
        rejects = Rejects()
        found = list(read_samples(ie_data(f"iepile_format/{task}/{part}.json"), rejects=rejects))
        assert [sample.text for sample in found] == expected and not len(rejects)
        assert any(len(sample.items) for sample in found)


def test_head_and_tail_are_read_as_subject_and_object() -> None:
    row = record(["wife"], {"wife": [{"head": "Li Wei", "tail": "Wu"}]}, "RE", "an expert in relationship extraction")
    question, sample = read_converted(row)
    assert question.task is Task.RE and [(r.head, r.tail) for r in sample.items.relations] == [("Li Wei", "Wu")]


def test_re_and_spo_are_told_apart_by_their_schema() -> None:
    element = {"subject_type": "a", "predicate": "r", "object_type": "b"}
    question, _ = read_converted(record([element], {"r": []}, None, "an expert in relationship extraction"))
    assert question.task is Task.SPO and question.elements == (RelationType("r", "a", "b"),)


def test_descriptions_and_triggers_are_read() -> None:
    schema = {"fire": {"fire": "it burns", "trigger": ["burnt"], "arguments": {"where": "the place", "when": "when"}}}
    question, _ = read_converted(record(schema, {"fire": []}, "EEA", "event argument extraction"))
    assert question.elements == (EventType("fire", (Role("where", "the place"), Role("when")), "it burns"),)
    assert question.triggers == {"fire": ("burnt",)}
    question, _ = read_converted(record({"person": "a name", "place": "place"}, {"person": [], "place": []}))
    assert question.elements == (EntityType("person", "a name"), EntityType("place"))


def test_the_label_of_a_test_record_is_its_gold() -> None:
    row = record(["person"], "")
    del row["output"]
    assert read_converted(row)[1].items == Items()
    gold = [{"entity": "Li Wei", "entity_type": "person"}]
    for label in (gold, json.dumps(gold)):
        assert [e.text for e in read_converted(row | {"label": label})[1].items.entities] == ["Li Wei"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Say 1."}, "instruction is not a JSON object"),
        (record(["a"], "{"), "output is not JSON"),
        (record(["a"], "[]"), "output is not an object"),
        (record(["a"], {"b": ["x"]}), "output does not answer the instruction"),
        (record(["a"], {"a": []}, None, "Write a poem."), "instruction of no known task"),
        (record(["a"], {"a": []}, "SPO", "relationship extraction"), "schema of another shape"),
    ],
)
def test_a_bad_record_is_rejected_with_a_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RejectedError) as caught:
        read_converted(row)
    assert caught.value.reason == reason
