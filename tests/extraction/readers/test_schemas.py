"""Schemas out of names, files, models and plain data."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.readers.schemas import (
    as_data,
    read_readable,
    read_schema,
    read_topics,
    renamed,
    renamed_items,
    schema_names,
    write_schema,
)
from src.extraction.schema import EntityType, EventType, RecordType, RelationType, Role, Schema, Task
from tests.extraction.ie_data import ie_data


@pytest.mark.parametrize("name", schema_names())
def test_every_named_schema_is_read_and_written_as_the_same(name: str, tmp_path: Path) -> None:
    schema = read_schema(name)
    write_schema(schema, tmp_path / "copy.yaml")
    assert read_schema(tmp_path / "copy.yaml") == schema
    assert schema.name == name


@pytest.mark.parametrize("name", ["person_org_place", "news_events", "company_relations", "people", "products"])
def test_our_own_schemas_say_the_same_in_two_languages_with_descriptions(name: str) -> None:
    english, chinese = read_schema(name), read_schema(name, "zh")
    assert (english.language, chinese.language) == ("en", "zh")
    for kind in ("entities", "relations", "events", "records"):
        pair = getattr(english, kind), getattr(chinese, kind)
        assert len(pair[0]) == len(pair[1])
        assert all(each.description or isinstance(each, RecordType) for part in pair for each in part)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"schema=nope is neither a file nor .*cluener.*person_org_place"):
        read_schema("nope")


def test_readable_names_are_a_mapping_from_labels_of_the_schema() -> None:
    for name in schema_names():
        schema = read_schema(name)
        labels = {each.name for kind in (schema.entities, schema.relations, schema.events) for each in kind}
        labels |= {role.name for event in schema.events for role in event.roles}
        readable = read_readable(name)
        assert set(readable) <= labels
        assert len(set(readable.values())) == len(readable)
    assert read_readable("crossner_politics")["politicalparty"] == "political party"


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("NER", {"entities": 3}),
        ("RE", {"relations": 49}),
        ("SPO", {"relations": 48}),
        ("EE", {"events": 65}),
        ("EET", {"events": 65}),
        ("EEA", {"events": 65}),
        ("KG", {"relations": 15, "records": 1}),
    ],
)
def test_iepiles_lines_are_read_for_each_task(task: str, kinds: dict[str, int]) -> None:
    schema = read_schema(ie_data(f"iepile_format/{task}/schema.json"))
    assert {kind: len(getattr(schema, kind)) for kind in kinds} == kinds
    assert schema.language == "zh"
    assert schema.elements(Task.named(task))


def test_a_relation_may_hold_the_line_below_and_a_type_may_not(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('["person_place_of_birth_city"]\n["place_of_birth"]\n{}\n', "utf-8")
    assert read_schema(file).relations == (RelationType("place_of_birth", "person", "city"),)


def test_an_instructie_schema_is_taken_by_topic(tmp_path: Path) -> None:
    topics = {"Person": [["human_spouse_human"], ["spouse"]], "Event": [["event_date_time"], ["date"]]}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(topics), "utf-8")
    assert read_schema(file, topic="Event").relations == (RelationType("date", "event", "time"),)
    assert list(read_topics(file)) == ["Person", "Event"]
    with pytest.raises(UserError, match=r"give topic=… as one of Person, Event"):
        read_schema(file)
    with pytest.raises(UserError, match="topic=Art is not in it"):
        read_schema(file, topic="Art")
    assert read_topics("cluener") == {}


def test_duies_schema_as_array_or_lines_has_a_relation_for_each_slot(tmp_path: Path) -> None:
    rows = [
        {"subject_type": "娱乐人物", "predicate": "配音", "object_type": {"inWork": "影视作品", "@value": "人物"}},
        {"subject_type": "国家", "predicate": "首都", "object_type": "城市"},
    ]
    expected = (
        RelationType("配音", "娱乐人物", "人物"),
        RelationType("配音:inWork", "娱乐人物", "影视作品"),
        RelationType("首都", "国家", "城市"),
    )
    (tmp_path / "array.json").write_text(json.dumps(rows), "utf-8")
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert read_schema(tmp_path / "array.json").relations == expected
    assert read_schema(tmp_path / "lines.json").relations == expected
    assert len(read_schema("duie2").relations) == 55


def test_plain_data_are_a_schema() -> None:
    assert read_schema(["人物", "地点"]) == Schema((EntityType("人物"), EntityType("地点")), language="zh")
    assert read_schema({"person": "who", "name": "what"}).entities == (
        EntityType("person", "who"),
        EntityType("name", "what"),
    )
    fields = {"relations": {"founder": {"head": "company", "tail": ["person", "company"]}}, "language": "en"}
    assert [relation.tail_type for relation in read_schema(fields).relations] == ["person", "company"]
    assert read_schema({"events": {"fire": {"roles": {"where": "the place"}}}}).events == (
        EventType("fire", (Role("where", "the place"),)),
    )
    given = Schema((EntityType("a"),))
    assert read_schema(given, "zh").language == "zh" and read_schema(given) == given


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a schema is a list of types"),
        ([1], "a list is one of type names"),
        ({"types": ["a"]}, "a schema has the keys"),
        ({"entities": [{"description": "x"}]}, "an entry of 'entities' has no name"),
        ({"entities": ["a"], "language": "fr"}, "language=fr is not known"),
        (["a", " "], "empty name"),
        ({"entities": []}, "there is nothing to extract"),
    ],
)
def test_what_is_no_schema_is_said(data: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_schema(data)


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "entities: [a"), ("a.json", "entities")])
def test_a_broken_file_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(UserError, match=rf"{name}: the file is "):
        read_schema(tmp_path / name)


names = st.text("abc人_: #'\"-", min_size=1, max_size=8).map(str.strip).filter(bool)
roles = st.lists(st.builds(Role, names, names | st.just("")), max_size=3, unique_by=lambda role: role.name).map(tuple)
schemas = st.builds(
    Schema,
    st.lists(st.builds(EntityType, names, names | st.just("")), min_size=1, max_size=3).map(tuple),
    st.lists(st.builds(RelationType, names, names, names, names), max_size=3).map(tuple),
    st.lists(st.builds(EventType, names, roles, names), max_size=3).map(tuple),
    st.lists(st.builds(RecordType, names, roles, names), max_size=3).map(tuple),
    st.sampled_from(["en", "zh"]),
    names,
)


@given(schemas)
def test_a_schema_as_data_is_the_schema(schema: Schema) -> None:
    assert read_schema(json.loads(json.dumps(as_data(schema)))) == schema


def test_renaming_a_schema_and_its_items_keeps_them_together() -> None:
    names = {"Peop": "person", "Kill": "killed", "Attack": "attack", "who": "victim"}
    schema = Schema(
        (EntityType("Peop"),), (RelationType("Kill", "Peop", "Peop"),), (EventType("Attack", (Role("who"),)),)
    )
    items = Items(
        (Entity("Li", "Peop"),),
        (Relation("Li", "Kill", "Wu", "Peop", "Peop"),),
        (Event("Attack", "hit", (Argument("Wu", "who"),)),),
    )
    assert renamed(schema, names) == Schema(
        (EntityType("person"),),
        (RelationType("killed", "person", "person"),),
        (EventType("attack", (Role("victim"),)),),
    )
    assert renamed_items(items, names) == Items(
        (Entity("Li", "person"),),
        (Relation("Li", "killed", "Wu", "person", "person"),),
        (Event("attack", "hit", (Argument("Wu", "victim"),)),),
    )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"en": [1]}, r"'en' of a schema is an object with entities"),
        ({"properties": {"a": {"anyOf": 5}}}, r"are lists: found 5"),
    ],
)
def test_parts_of_another_kind_are_told(data, told):
    with pytest.raises(UserError, match=told):
        read_schema(data)
