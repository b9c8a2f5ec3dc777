"""A schema in portions: IEPile's law, unique names, roles of large events."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.extraction.formats.batching import SPLIT_NUM, WHOLE, batch_sizes, batches, questions
from src.extraction.schema import EntityType, EventType, Example, RecordType, RelationType, Role, Schema, Task


def relations(count: int) -> Schema:
    return Schema(relations=tuple(RelationType(f"r{n}") for n in range(count)))


@given(st.integers(0, 200), st.integers(1, 10))
def test_portions_follow_the_law(count: int, size: int) -> None:
    sizes = batch_sizes(count, size)
    rest = count % size
    own = count > size and rest >= max(1, size // 2)
    assert sum(sizes) == count
    assert len(sizes) == (0 if count == 0 else max(1, count // size) + own)
    assert all(each == size for each in sizes[:-1])
    assert not sizes or max(sizes) <= size + max(size // 2 - 1, 0)
    assert not sizes or count < size or min(sizes) >= max(1, size // 2)


def test_49_relations_by_4_make_12_portions_the_last_of_5() -> None:
    asked = questions(relations(49), Task.RE)
    assert [len(question.elements) for question in asked] == [4] * 11 + [5]


@given(st.integers(1, 60), st.integers(1, 10))
def test_the_order_is_the_schemas_and_nothing_is_lost(count: int, size: int) -> None:
    schema = relations(count)
    asked = questions(schema, Task.RE, size)
    assert [element for question in asked for element in question.elements] == list(schema.relations)


def test_fewer_than_a_portion_are_one_and_minus_one_asks_for_all() -> None:
    assert [len(question.elements) for question in questions(relations(3), Task.RE)] == [3]
    assert [len(question.elements) for question in questions(relations(49), Task.RE, WHOLE)] == [49]


def test_each_task_has_the_size_its_checkpoints_were_trained_with() -> None:
    assert {task.value: size for task, size in SPLIT_NUM.items()} == {
        "ner": 6, "re": 4, "spo": 4, "ee": 4, "eet": 4, "eea": 4, "kg": 1,
    }  # fmt: skip


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.sampled_from([WHOLE, 1, 2, 4, 6]))
def test_no_portion_asks_twice_for_a_name_and_all_are_asked_for(names: list[str], size: int) -> None:
    elements = [RelationType(name, f"head{n}", "tail") for n, name in enumerate(names)]
    found = batches(elements, size)
    assert all(len({element.name for element in batch}) == len(batch) for batch in found)
    assert sorted(each.head_type for batch in found for each in batch) == sorted(e.head_type for e in elements)  # type: ignore[union-attr]


def test_relations_of_one_name_between_other_types_are_asked_for_apart() -> None:
    schema = Schema(relations=(RelationType("上映时间", "电影", "日期"), RelationType("上映时间", "电影", "地点")))
    assert [len(question.elements) for question in questions(schema, Task.SPO)] == [1, 1]


def test_28_roles_of_one_event_are_asked_for_in_three_prompts() -> None:
    roles = tuple(Role(f"r{n}") for n in range(28))
    asked = questions(Schema(events=(EventType("e", roles),)), Task.EE)
    parts = [question.elements[0].roles for question in asked]  # type: ignore[union-attr]
    assert [len(part) for part in parts] == [9, 9, 10]
    assert tuple(itertools.chain(*parts)) == roles
    assert len(questions(Schema(events=(EventType("e", roles),)), Task.EET)) == 1
    assert len(questions(Schema(events=(EventType("e", roles),)), Task.EE, max_roles=None)) == 1


def test_many_attributes_of_a_record_are_asked_for_in_parts() -> None:
    record = RecordType("person", tuple(Role(f"a{n}") for n in range(13)))
    asked = questions(Schema(records=(record,)), Task.KG)
    assert [len(question.elements[0].attributes) for question in asked] == [6, 7]  # type: ignore[union-attr]


def test_arguments_are_asked_of_the_event_types_that_have_triggers() -> None:
    schema = Schema(events=tuple(EventType(name, (Role("who"),)) for name in "abc"))
    (question,) = questions(schema, Task.EEA, triggers={"b": ["fired", "fired"]})
    assert question.names == ("b",) and question.triggers == {"b": ("fired", "fired")}
    assert questions(schema, Task.EEA, triggers={}) == []
    assert questions(schema, Task.EEA)[0].names == ("a", "b", "c")


def test_an_examples_answer_is_cut_to_what_a_portion_asks_for() -> None:
    schema = Schema(entities=tuple(map(EntityType, "abc")))
    asked = questions(schema, Task.NER, 1, examples=[Example("x", {"a": ["x"], "c": ["y"]})])
    assert [dict(question.examples[0].answer) for question in asked] == [{"a": ["x"]}, {"b": []}, {"c": ["y"]}]


def test_an_examples_event_keeps_the_roles_of_the_portion() -> None:
    schema = Schema(events=(EventType("e", (Role("p"), Role("q"))),))
    example = Example("x", {"e": [{"trigger": "t", "arguments": {"p": "1", "q": "2"}}]})
    first, second = questions(schema, Task.EE, max_roles=1, examples=[example])
    assert first.examples[0].answer == {"e": [{"trigger": "t", "arguments": {"p": "1"}}]}
    assert second.examples[0].answer == {"e": [{"trigger": "t", "arguments": {"q": "2"}}]}


def test_the_language_is_the_schemas_or_the_one_given() -> None:
    schema = Schema(entities=(EntityType("人"),), language="zh")
    assert questions(schema, Task.NER)[0].language == "zh"
    assert questions(schema, Task.NER, language="en")[0].language == "en"


@pytest.mark.parametrize("setting", [{"split_num": 0}, {"split_num": -2}, {"max_roles": 0}])
def test_an_impossible_size_is_said(setting: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(setting))}=.* can't be"):
        questions(relations(3), Task.RE, **setting)
