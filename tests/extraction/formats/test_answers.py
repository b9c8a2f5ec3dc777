"""Answers: items to JSON and back, tolerant of what models write around them."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from src.extraction.formats.answers import answer_object, items_of_answer
from src.extraction.formats.format import Note
from src.extraction.items import Argument, Entity, Event, Items, Relation, Span
from src.extraction.schema import EntityType, EventType, Question, RecordType, RelationType, Role, Task

TEXT = "In May, Oracle laid off 900 people in Beijing; IBM and Oracle hired them."
LAYOFF = EventType("layoff", (Role("company"), Role("number"), Role("time")))
HIRING = EventType("hiring", (Role("company"), Role("number")))


def read(question: Question, answer: dict, **counted: int) -> Items:
    notes: Counter[Note] = Counter()
    items = items_of_answer(question, answer, notes)
    assert notes == Counter({Note(name): number for name, number in counted.items()})
    return items


def test_entities_come_in_the_order_of_the_text_and_once() -> None:
    question = Question(Task.NER, (EntityType("company"), EntityType("place"), EntityType("person")))
    found = [
        Entity("IBM", "company"),
        Entity("Oracle", "company"),
        Entity("IBM", "company"),
        Entity("Beijing", "place"),
    ]
    answer = answer_object(question, Items(tuple(found)), TEXT)
    assert answer == {"company": ["Oracle", "IBM"], "place": ["Beijing"], "person": []}
    assert list(answer) == ["company", "place", "person"]


def test_spans_decide_the_order_of_entities_where_there_are_any() -> None:
    question = Question(Task.NER, (EntityType("company"),))
    second_oracle = Span(TEXT.rindex("Oracle"), TEXT.rindex("Oracle") + 6)
    found = (Entity("Oracle", "company", second_oracle), Entity("IBM", "company", Span(47, 50)))
    assert answer_object(question, Items(found), TEXT) == {"company": ["IBM", "Oracle"]}


def test_relations_that_share_a_name_differ_by_their_types() -> None:
    question = Question(Task.SPO, (RelationType("released", "film", "date"),))
    given_items = Items(
        relations=(
            Relation("A", "released", "1999", "film", "date"),
            Relation("A", "released", "Oslo", "film", "place"),
        )
    )
    assert answer_object(question, given_items, "A 1999 Oslo") == {"released": [{"subject": "A", "object": "1999"}]}
    assert read(question, {"released": [{"head": "A", "tail": "1999"}]}).relations == (given_items.relations[0],)


def test_an_event_names_each_role_and_says_nan_for_those_that_nothing_plays() -> None:
    question = Question(Task.EE, (LAYOFF, HIRING))
    arguments = (Argument("900", "number"), Argument("Oracle", "company"))
    hired = (Argument("Oracle", "company"), Argument("IBM", "company"))
    items = Items(events=(Event("layoff", "laid off", arguments), Event("hiring", "hired", hired)))
    assert answer_object(question, items, TEXT) == {
        "layoff": [{"trigger": "laid off", "arguments": {"company": "Oracle", "number": "900", "time": "NAN"}}],
        "hiring": [{"trigger": "hired", "arguments": {"company": ["Oracle", "IBM"], "number": "NAN"}}],
    }


def test_the_three_forms_of_event_arguments_are_read() -> None:
    question = Question(Task.EEA, (LAYOFF,))
    inside = {"company": "Oracle", "time": "NAN"}
    expected = (Argument("Oracle", "company"),)
    for answer in (inside, {"arguments": inside}, {"trigger": "laid off", "arguments": inside}):
        (event,) = read(question, {"layoff": [answer]}).events
        assert event.arguments == expected
    assert event.trigger == "laid off"


def test_a_record_keeps_an_entity_without_attributes() -> None:
    question = Question(Task.KG, (RecordType("person", (Role("alias"), Role("parent"))),))
    items = Items(
        (Entity("Zed", "person"),),
        (
            Relation("Ann", "parent", "Bo", "person"),
            Relation("Ann", "parent", "Al", "person"),
        ),
    )
    answer = answer_object(question, items, "Al, Bo: Ann. Zed.")
    assert answer == {"person": {"Ann": {"parent": ["Al", "Bo"]}, "Zed": {}}}
    back = read(question, answer)
    assert set(back.relations) == set(items.relations)
    assert {entity.text for entity in back.entities} == {"Ann", "Zed"}


def test_keys_in_other_letter_case_and_width_are_the_ones_asked_for() -> None:
    question = Question(Task.NER, (EntityType("Country Name"), EntityType("人物（男）")))
    found = read(question, {"country  name": ["Fiji"], "人物(男)": ["王明"], "animal": ["cat"]}, hallucinated_schema=1)
    assert found.entities == (Entity("Fiji", "Country Name"), Entity("王明", "人物（男）"))


def test_names_that_look_like_nothing_are_kept() -> None:
    question = Question(Task.NER, (EntityType("place"),))
    assert read(question, {"place": ["Nan", "NAN", "nan", "Nil", "none", ""]}).entities == (
        Entity("Nan", "place"),
        Entity("Nil", "place"),
    )


def test_what_is_not_of_the_tasks_shape_is_counted_and_passed_over() -> None:
    ner = Question(Task.NER, (EntityType("a"), EntityType("b"), EntityType("c")))
    assert read(ner, {"a": ["x", ["y"], True, 7, "NAN"], "b": "z"}, wrong_shape=2, missing_key=1).entities == (
        Entity("x", "a"),
        Entity("7", "a"),
        Entity("z", "b"),
    )
    spo = Question(Task.RE, (RelationType("r"),))
    entries = ["x", {"subject": "A"}, {"subject": "A", "object": ["B", "C"]}, {"subject": "A", "object": "B"}]
    assert len(read(spo, {"r": entries}, wrong_shape=2, duplicate=1).relations) == 2
    event = Question(Task.EE, (LAYOFF,))
    assert len(read(event, {"layoff": [{"trigger": "fired", "arguments": ["Oracle"]}, 5]}, wrong_shape=2)) == 1


names = st.text("abcXY 中文\"'\\\n{}[],:", min_size=1, max_size=6).map(str.strip).filter(lambda name: len(name) > 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(names, min_size=1, max_size=5, unique_by=lambda n: "".join(n.casefold().split())), st.data())
def test_what_was_put_into_an_answer_comes_out_of_it(types: list[str], data: st.DataObject) -> None:
    pick = st.sampled_from(types)
    entities = tuple(Entity(data.draw(names), data.draw(pick)) for _ in range(data.draw(st.integers(0, 6))))
    relations = tuple(
        Relation(data.draw(names), data.draw(pick), data.draw(names)) for _ in range(data.draw(st.integers(0, 6)))
    )
    items, text = Items(entities, relations), data.draw(names)
    for task, kind in ((Task.NER, EntityType), (Task.RE, RelationType)):
        question = Question(task, tuple(kind(name) for name in types))
        back = read(question, answer_object(question, items, text))
        assert set(back.entities) == (set(entities) if task is Task.NER else set())
        assert set(back.relations) == (set(relations) if task is Task.RE else set())
