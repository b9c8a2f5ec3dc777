"""Requests out of a document and a schema, and what answers to them say of the document."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from src.errors import UserError
from src.extraction.documents import Document
from src.extraction.formats.format import Note, Status, load_format
from src.extraction.items import Argument, Entity, Event, Span
from src.extraction.plan import Constraint, Options, Plan, finish, follow_up, permuted, plan
from src.extraction.schema import EntityType, EventType, Example, RelationType, Role, Schema, Task
from src.generation.tasks import Answer

TYPES = Schema(tuple(map(EntityType, ("person", "place", "work", "year"))), name="s")
EVENTS = Schema(events=(EventType("sale", (Role("seller"), Role("price"))), EventType("trip", (Role("to"),))))


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def options(**changes: Any) -> Options:
    return replace(Options(load_format("oneke"), words, 16), **changes)


def answered(step: Plan, *answers: Any, reason: str = "stop") -> list[Answer]:
    texts = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
    return [Answer(ask.request.id, "", text, reason, 10, 5) for ask, text in zip(step.asks, texts, strict=True)]


LONG = "Ada was born in London in the year of Waterloo, says everybody. Bo lives in Bern. Ada lives in Bern."


def test_every_chunk_is_asked_every_batch_of_the_schema_in_each_order() -> None:
    step = plan(Document("d", LONG), TYPES, Task.NER, options(split_num=2, permutations=3, overlap=0))
    assert len(step.chunks) == 2 and len(step.asks) == 2 * 2 * 3
    assert len({request.id for request in step.requests}) == 12
    asked = [tuple(name for ask in step.asks[at : at + 2] for name in ask.question.names) for at in range(0, 12, 2)]
    assert asked[:3] == asked[3:] and asked[0] == ("person", "place", "work", "year") and len(set(asked)) > 1
    assert all(sorted(order) == sorted(asked[0]) for order in asked)


def test_orders_are_drawn_from_the_seed_and_the_first_is_the_schemas_own() -> None:
    assert permuted(TYPES, 4, 7) == permuted(TYPES, 4, 7) != permuted(TYPES, 4, 8)
    assert permuted(TYPES, 4, 7)[0] == TYPES


def test_items_of_chunks_have_their_places_in_the_document_and_the_report_says_which_were_new() -> None:
    step = plan(Document("d", LONG, "f.txt"), TYPES, Task.NER, options(split_num=-1, overlap=1))
    assert [chunk.text[:3] for chunk in step.chunks] == ["Ada", "Bo "]
    absent = {"work": [], "year": []}
    found = finish(
        step,
        answered(
            step,
            {"person": ["Ada"], "place": ["London"]} | absent,
            {"person": ["Ada", "Cy"], "place": ["Bern"]} | absent,
        ),
    )
    assert found.items.entities == (
        Entity("Ada", "person", Span(0, 3)),
        Entity("London", "place", Span(16, 22)),
        Entity("Bern", "place", Span(76, 80)),
        Entity("Cy", "person"),
    )
    assert [(chunk.start, chunk.items, chunk.new) for chunk in found.chunks] == [(0, 2, 2), (64, 3, 2)]
    assert found.notes == {Note.NOT_IN_TEXT: 1} and found.statuses == {Status.EXACT: 2}
    assert (found.requests, found.prompt_tokens, found.completion_tokens, found.truncated) == (2, 20, 10, 0)
    record = found.as_dict()
    assert (record["id"], record["source"], record["task"]) == ("d", "f.txt", "ner")
    assert json.loads(json.dumps(record))["report"]["chunks"][1] == {"start": 64, "end": 100, "items": 3, "new": 2}
    dropped = replace(step, options=options(drop_missing=True))
    texts = {"person": ["Cy"], "place": []} | absent
    assert len(finish(dropped, answered(step, texts, texts)).items) == 0


def test_what_was_cut_off_or_unreadable_is_counted() -> None:
    step = plan(Document("d", LONG), TYPES, Task.NER, options(overlap=0))
    found = finish(step, answered(step, '{"person": ["Ada"', "I don't know.", reason="length"))
    assert found.truncated == 2 and found.statuses == Counter({Status.CLOSED: 1, Status.FAILED: 1})
    assert found.items.entities == (Entity("Ada", "person", Span(0, 3)),)


def test_a_missing_answer_is_an_error() -> None:
    step = plan(Document("d", "Ada."), TYPES, Task.NER, options())
    with pytest.raises(UserError, match=r"1 of 1 requests have no answer, the first is '0\.0\.0'"):
        finish(step, [])


def test_a_blank_text_asks_nothing_and_holds_nothing() -> None:
    step = plan(Document("d", " \n"), TYPES, Task.NER, options())
    assert step.requests == [] and len(finish(step, []).items) == 0


def test_events_in_two_steps_ask_for_the_arguments_of_those_found() -> None:
    text = "Al sold a boat in May. Al sold a car in June."
    step = plan(Document("d", text), EVENTS, Task.EE, options(two_step=True))
    assert step.is_first_step and step.asks[0].question.task is Task.EET
    triggers = answered(step, {"sale": ["sold", "sold"], "trip": []})
    second = follow_up(step, triggers)
    assert second is not None and len(second.asks) == 1
    question = second.asks[0].question
    assert (question.task, question.names) == (Task.EEA, ("sale",)) and set(question.triggers["sale"]) == {"sold"}
    found = finish(second, answered(second, {"sale": [{"seller": "Al", "price": "NAN"}]}))
    assert follow_up(second, []) is None and found.requests == 2
    assert found.items.events[0] == Event("sale", "sold", (Argument("Al", "seller", Span(0, 2)),), Span(3, 7))


def test_an_event_that_the_second_step_places_elsewhere_is_one_event() -> None:
    step = plan(Document("d", "A boat was sold. Al sold a car."), EVENTS, Task.EE, options(two_step=True))
    triggers = answered(step, {"sale": ["sold"], "trip": []})
    second = follow_up(step, triggers)
    assert second is not None
    found = finish(second, answered(second, {"sale": [{"trigger": "sold", "arguments": {"seller": "Al"}}]}))
    (event,) = found.items.events
    assert (event.span, event.arguments[0].text) == (Span(20, 24), "Al")


def test_no_trigger_means_no_second_step() -> None:
    step = plan(Document("d", "Nothing."), EVENTS, Task.EE, options(two_step=True))
    nothing = answered(step, {"sale": [], "trip": []})
    assert follow_up(step, nothing) is None and len(finish(step, nothing).items) == 0


def test_roles_of_one_event_asked_for_in_parts_come_together() -> None:
    many = Schema(events=(EventType("sale", tuple(Role(f"r{n}") for n in range(5))),))
    step = plan(Document("d", "Al sold it."), many, Task.EE, options(max_roles=3))
    assert len(step.asks) == 2
    halves = [{"trigger": "sold", "arguments": {"r0": "Al"}}, {"trigger": "NAN", "arguments": {"r4": "it"}}]
    found = finish(step, answered(step, *({"sale": [half]} for half in halves)))
    (event,) = found.items.events
    assert {(a.role, a.text) for a in event.arguments} == {("r0", "Al"), ("r4", "it")}


def test_a_title_stands_before_each_chunk_but_gives_no_spans() -> None:
    step = plan(Document("d", LONG, title="Ada"), TYPES, Task.NER, options(titles=True, overlap=0))
    inputs = [json.loads(request.messages[-1].text)["input"] for request in step.requests]
    assert all(text.startswith("Ada\n") for text in inputs) and len(step.chunks) == 2
    assert [chunk.text for chunk in step.chunks] == [text.partition("\n")[2] for text in inputs]


def test_constraints_become_grammars_or_schemas() -> None:
    document = Document("d", "Ada.")
    json_only = options(constraint=Constraint.JSON, follows_grammars=False)
    assert plan(document, TYPES, Task.NER, json_only).requests[0].decoding.json_schema["required"][0] == "person"
    extractive = plan(document, TYPES, Task.NER, options(constraint=Constraint.EXTRACTIVE)).requests[0].decoding
    loose = plan(document, TYPES, Task.NER, options(constraint=Constraint.JSON)).requests[0].decoding
    assert "substring_chunks" in extractive.grammar.lark and "substring_chunks" not in loose.grammar.lark
    assert plan(document, TYPES, Task.NER, options()).requests[0].decoding.grammar is None


@pytest.mark.parametrize(
    ("changes", "task", "said"),
    [
        ({"permutations": 0}, Task.NER, "permutations is 0"),
        ({"vote": "best"}, Task.NER, "vote=best is not known"),
        ({"mentions": "some"}, Task.NER, "mentions=some is not known"),
        ({"language": "fr"}, Task.NER, "language=fr is not known"),
        ({"two_step": True}, Task.NER, "two_step is for task=ee"),
        ({"confidence": True, "num_beams": 2}, Task.NER, "set num_beams=1"),
        ({"format": load_format("knowlm"), "constraint": Constraint.JSON}, Task.NER, "constraint=json needs JSON"),
        ({"format": load_format("knowlm"), "examples": (Example("x", {}),)}, Task.NER, "format=knowlm has none"),
        ({}, Task.RE, "has no relations"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], task: Task, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(Document("d", "x"), TYPES, task, options(**changes))


def test_a_base_model_gets_the_message_as_plain_text() -> None:
    schema = Schema(relations=(RelationType("knows"),))
    (request,) = plan(Document("d", "x"), schema, Task.RE, options(chat=False)).requests
    assert request.messages is None and request.prompt.startswith('{"instruction"')
