"""Schemas: what each task takes of them."""

import pytest

from src.errors import UserError
from src.extraction.schema import EntityType, RecordType, RelationType, Role, Schema, Task

FILMS = Schema(
    entities=(EntityType("person"),),
    relations=(
        RelationType("director", "film", "person", "who made it"),
        RelationType("released", "film", "date"),
        RelationType("director", "play", "person"),
        RelationType("related to"),
    ),
    name="films",
)


def test_re_asks_for_each_name_once_and_spo_for_each_pair_of_types() -> None:
    assert [element.name for element in FILMS.elements(Task.RE)] == ["director", "released", "related to"]
    assert FILMS.elements(Task.RE)[0] == RelationType("director", description="who made it")
    assert FILMS.elements(Task.SPO) == FILMS.relations[:3]


def test_records_are_made_of_relations_where_there_are_none() -> None:
    assert FILMS.elements(Task.KG) == (
        RecordType("film", (Role("director", "who made it"), Role("released"))),
        RecordType("play", (Role("director"),)),
    )


@pytest.mark.parametrize("task", [Task.EE, Task.EET, Task.EEA])
def test_a_task_that_the_schema_has_nothing_for_is_refused(task: Task) -> None:
    with pytest.raises(UserError, match=f"schema 'films' has no events, which task={task} asks for"):
        FILMS.elements(task)


def test_tasks_have_names_in_any_case() -> None:
    assert Task.named("SPO") is Task.SPO
    with pytest.raises(UserError, match="choose one of ner, re, spo"):
        Task.named("parsing")


def test_a_type_named_twice_is_asked_for_once() -> None:
    twice = Schema(entities=(EntityType("person", "first"), EntityType("person"), EntityType("place")))
    assert twice.elements(Task.NER) == (EntityType("person", "first"), EntityType("place"))
