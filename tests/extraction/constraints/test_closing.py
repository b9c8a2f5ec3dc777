"""Answers that stop anywhere are completed."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.extraction.constraints.closing import Closing
from src.extraction.constraints.grammar import Limits
from src.extraction.constraints.shape import NAN, Fields, Listing, OneOf, Records, Shape, Text, answer_shape
from src.extraction.formats.answers import items_of_answer
from src.extraction.schema import EventType, Question, Role, Task
from tests.extraction.constraints.grammar_cases import QUESTIONS, TEXT, check

LIMITS = Limits(max_items=4, max_span_chars=len(TEXT))


def answers(shape: Shape, spans: st.SearchStrategy[str]) -> st.SearchStrategy:
    """Answers of a shape as JSON data."""
    if isinstance(shape, Text):
        texts = st.sampled_from(shape.choices) if shape.choices else spans
        return texts | st.just(NAN) if shape.may_be_nan else texts
    if isinstance(shape, Listing):
        return st.lists(answers(shape.item, spans), min_size=shape.least, max_size=3)
    if isinstance(shape, OneOf):
        return st.one_of([answers(option, spans) for option in shape.options])
    if isinstance(shape, Records):
        return st.dictionaries(spans, answers(shape.value, spans), max_size=3)
    assert isinstance(shape, Fields)
    fields = {name: answers(value, spans) for name, value in shape.fields}
    chosen = st.fixed_dictionaries({}, optional=fields) if shape.optional else st.fixed_dictionaries(fields)
    return chosen.map(lambda found: {name: found[name] for name in fields if name in found})  # in their order


CUTS = st.tuples(st.integers(0, len(TEXT) - 1), st.integers(1, 6)).map(lambda cut: TEXT[cut[0] : cut[0] + cut[1]])
FREE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("text", [None, TEXT])
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_every_beginning_of_every_answer_can_be_completed(task, text, data):
    question = QUESTIONS[task]
    answer = data.draw(answers(answer_shape(question), FREE if text is None else CUTS))
    written, closing = json.dumps(answer, ensure_ascii=False), Closing(question, text)
    for end in range(len(written) + 1):
        rest = closing(written[:end])
        assert len(rest.encode()) <= closing.longest
        whole = written[:end] + rest
        if text is None:
            json.loads(whole)
        check(question, whole, text, LIMITS)
    assert closing(written) == closing(" " + written) == ""


def test_what_was_not_begun_is_left_out_when_the_answer_is_read():
    question = QUESTIONS[Task.RE]
    begun = '{"born in": [{"subject": "Ada", "object": "York"}, {"subject": "Ada'
    whole = begun + Closing(question)(begun)
    assert whole == begun + '", "object": "NAN"}], "父母": []}'
    assert [item.tail for item in items_of_answer(question, json.loads(whole), Counter()).relations] == ["York"]


def test_an_escape_is_finished_as_the_text_goes_on():
    question = QUESTIONS[Task.EET]
    begin = '{"组织关系-裁员": ["lives\\'
    assert Closing(question, TEXT)(begin).startswith('n"]')
    assert Closing(question)(begin).startswith('\\"]')


def test_an_escape_goes_on_from_the_characters_before_it_not_from_another_escape():
    question = Question(Task.EET, (EventType("a"),))
    begin = '{"a": ["n\\'
    assert begin + Closing(question, '\n\t, n"')(begin) == json.dumps({"a": ['n"']})


@pytest.mark.parametrize("answer", ["[", '{"x', '{"组织关系-裁员": [1', '{"组织关系-裁员": ["a" '])
def test_what_begins_no_answer_is_an_error(answer):
    with pytest.raises(ValueError, match="not the beginning"):
        Closing(QUESTIONS[Task.EET])(answer)


def test_text_behind_an_answer_is_an_error():
    question = Question(Task.EET, (EventType("a", (Role("b"),)),))
    assert Closing(question)('{"a": []} ') == ""
    with pytest.raises(ValueError, match="follows"):
        Closing(question)('{"a": []} {')
