"""OneKE's prompts to the letter, and its answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.extraction.formats.format import Status, load_format
from src.extraction.formats.oneke import EXAMPLE_SENTENCE, INSTRUCTIONS, OneKE, task_of_instruction
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.readers.iepile import read_converted
from src.extraction.schema import EntityType, EventType, Example, Question, RecordType, RelationType, Role, Task
from tests.extraction.ie_data import ie_data

ONEKE = OneKE()


def schema_in(question: Question) -> object:
    return json.loads(ONEKE.message(question, "x").content)["schema"]


def test_the_message_is_the_published_one_to_the_byte() -> None:
    types = tuple(map(EntityType, ("person", "organization", "else", "location")))
    text = "284 Robert Allenby ( Australia ) 69 71 71 73 , Miguel Angel Martin ( Spain ) 75 70 71 68"
    assert ONEKE.message(Question(Task.NER, types), text).content == (
        '{"instruction": "You are an expert in named entity recognition. Please extract entities that match the schema '
        "definition from the input. Return an empty list if the entity type does not exist. Please respond in the "
        'format of a JSON string.", "schema": ["person", "organization", "else", "location"], "input": "284 Robert '
        'Allenby ( Australia ) 69 71 71 73 , Miguel Angel Martin ( Spain ) 75 70 71 68"}'
    )


@pytest.mark.parametrize("task", ["NER", "RE", "EE", "EET", "EEA", "KG"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_every_record_that_iepile_publishes_is_written_again_to_the_byte(task: str, part: str) -> None:
    for line in ie_data(f"iepile_format/{task}/{part}.json").read_text("utf-8").splitlines():
        question, sample = read_converted(json.loads(line))
        assert ONEKE.message(question, sample.text).content == json.loads(line)["instruction"]


@pytest.mark.parametrize(("folder", "same"), [("KG", 5), ("SPO", 23), ("EE", 95), ("EET", 94), ("EEA", 5), ("NER", 5)])
def test_answers_are_iepiles_but_for_repeats_and_the_order_of_the_text(folder: str, same: int) -> None:
    lines = ie_data(f"iepile_format/{folder}/train.json").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    equal = 0
    for record in records:
        question, sample = read_converted(record)
        answer = ONEKE.answer(question, sample.items, sample.text)
        equal += answer == record["output"]
        assert list(json.loads(answer)) == list(json.loads(record["output"]))
    assert equal == same


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True))
def test_any_text_and_any_names_survive(text: str, names: list[str]) -> None:
    message = ONEKE.message(Question(Task.NER, tuple(map(EntityType, names)), "zh"), text).content
    assert json.loads(message) == {"instruction": INSTRUCTIONS["zh"][Task.NER], "schema": names, "input": text}


def test_each_task_has_its_own_element() -> None:
    event = EventType("裁员", (Role("时间"),))
    assert schema_in(Question(Task.EE, (event,))) == [{"event_type": "裁员", "trigger": True, "arguments": ["时间"]}]
    assert schema_in(Question(Task.EET, (event,))) == ["裁员"]
    assert schema_in(Question(Task.EEA, (event,))) == [{"event_type": "裁员", "arguments": ["时间"]}]
    assert schema_in(Question(Task.EEA, (event,), triggers={"裁员": ("裁掉", "裁掉")})) == [
        {"event_type": "裁员", "trigger": ["裁掉", "裁掉"], "arguments": ["时间"]}
    ]
    assert schema_in(Question(Task.SPO, (RelationType("作者", "书", "人物", "写书的人"),))) == [
        {"subject_type": "书", "predicate": "作者", "object_type": "人物"}
    ]
    assert schema_in(Question(Task.KG, (RecordType("人物", (Role("别名"),)),))) == [
        {"entity_type": "人物", "attributes": ["别名"]}
    ]


def test_descriptions_make_an_object_and_a_name_without_one_describes_itself() -> None:
    relations = RelationType("民族"), RelationType("父亲", description="子女是主体")
    assert schema_in(Question(Task.RE, relations)) == {"民族": "民族", "父亲": "子女是主体"}
    event = EventType("上市", (Role("地点", "何地"), Role("时间")), "在证券市场上市")
    assert schema_in(Question(Task.EE, (event,))) == {
        "上市": {"上市": "在证券市场上市", "trigger": True, "arguments": {"地点": "何地", "时间": "时间"}}
    }
    record = RecordType("人物", (Role("别名", "其他名字"),), "人")
    assert schema_in(Question(Task.KG, (record,))) == [{"entity_type": "人物", "attributes": {"别名": "其他名字"}}]


def test_examples_stand_before_the_input_and_are_spoken_of() -> None:
    example = Example("DPP-4抑制剂在特殊人群中的应用", {"检查指标": []})
    question = Question(Task.NER, (EntityType("检查指标"),), "zh", examples=(example,))
    message = json.loads(ONEKE.message(question, "文").content)
    assert list(message) == ["instruction", "schema", "example", "input"]
    assert message["instruction"].endswith("请按照JSON字符串的格式回答。你可以参考example进行抽取。")
    assert message["example"] == [{"input": example.text, "output": {"检查指标": []}}]


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("task", list(Task))
def test_every_instruction_tells_its_task_and_language(task: Task, language: str) -> None:
    sentence = INSTRUCTIONS[language][task]  # type: ignore[index]
    expected = Task.RE if task is Task.SPO else task  # the two share their words
    assert task_of_instruction(sentence) == (expected, language)
    assert task_of_instruction(sentence + EXAMPLE_SENTENCE[language]) == (expected, language)  # type: ignore[index]


def test_the_older_words_for_spo_are_known_and_other_words_are_not() -> None:
    assert task_of_instruction("你是专门进行SPO三元组抽取的专家。") == (Task.SPO, "zh")
    assert task_of_instruction("Write a poem.") is None


def test_an_answer_is_read_back_as_the_items_it_was_made_of() -> None:
    event = EventType("裁员", (Role("时间"), Role("裁员方")))
    items = Items(events=(Event("裁员", "裁掉", (Argument("5月", "时间"),)),))
    question = Question(Task.EE, (event,), "zh")
    answer = ONEKE.answer(question, items, "5月裁掉")
    assert answer == '{"裁员": [{"trigger": "裁掉", "arguments": {"时间": "5月", "裁员方": "NAN"}}]}'
    parsed = ONEKE.parse(" " + answer, question, "5月裁掉")
    assert (parsed.items, parsed.status, sum(parsed.notes.values())) == (items, Status.EXACT, 0)


def test_an_unreadable_answer_is_no_items_and_failed() -> None:
    parsed = ONEKE.parse("I don't know", Question(Task.NER, (EntityType("a"),)), "a")
    assert parsed.items == Items() and parsed.status is Status.FAILED


def test_strict_reading_takes_exact_json_only() -> None:
    question = Question(Task.NER, (EntityType("a"),))
    fenced = '```json\n{"a": ["x"]}\n```'
    assert ONEKE.parse(fenced, question, "x").items == Items((Entity("x", "a"),))
    assert ONEKE.parse(fenced, question, "x", strict=True).status is Status.FAILED


def test_relations_of_other_types_are_left_out_of_spo() -> None:
    items = Items(relations=(Relation("a", "r", "b", "X", "Y"), Relation("c", "r", "d", "X", "Z")))
    question = Question(Task.SPO, (RelationType("r", "X", "Y"),))
    assert ONEKE.answer(question, items, "abcd") == '{"r": [{"subject": "a", "object": "b"}]}'


def test_it_is_loaded_by_its_name() -> None:
    assert isinstance(load_format("oneke"), OneKE)
