"""The numbers of IEPile's evaluator, by hand and on its own samples, where these are present."""

import json
from dataclasses import replace

import pytest

from src.errors import UserError
from src.extraction.items import Entity, Items, Relation, Sample
from src.extraction.readers.iepile import read_questions
from src.extraction.schema import Question, Task
from src.extraction.scoring.iepile import IEPileScore, iepile_score
from src.extraction.scoring.scoring import Answer
from tests.extraction.answers_of_tasks import CASES
from tests.extraction.ie_data import ie_data


def answer(task: Task, items: Items, text: str, name: str = "1") -> Answer:
    return Answer(Sample(name, "", items), Question(task, ()), text)


def test_rates_are_rounded_before_f1():
    assert IEPileScore.of(1, 1, 6) == IEPileScore(100, 16.67, 28.58)  # 28.57 without rounding
    assert IEPileScore.of(0, 0, 5) == IEPileScore(0, 0, 0)


def test_repeats_and_names_nobody_asked_for_count_and_unread_answers_are_errors():
    gold = Items((Entity("A", "t"), Entity("B", "t")))
    answers = [answer(Task.NER, gold, '{"t": ["A", "A"], "other": ["B"]}'), answer(Task.NER, gold, '{"t": ["B"')]
    report = iepile_score(answers)
    assert report.scores["entity"] == IEPileScore.of(1, 3, 2)
    assert (report.records, report.errors) == (1, 1)


def test_relations_under_other_keys_become_empty_ones():
    gold = Items(relations=(Relation("A", "r", "B"),))
    assert (
        iepile_score([answer(Task.RE, gold, '{"r": [{"subject": "A", "object": "B"}]}')]).scores["relation"].f1 == 100
    )
    report = iepile_score([answer(Task.RE, gold, '{"r": [{"head": "A", "tail": "B"}]}')])
    assert report.scores["relation"] == IEPileScore.of(0, 1, 1)


def test_arguments_are_read_in_the_forms_that_it_knows():
    for task in (Task.EE, Task.EEA):
        case = CASES[task]
        report = iepile_score([Answer(Sample("1", case.text, case.items), case.question, case.answer)])
        assert report.scores["argument"].f1 == 100
    nested = '{"组织关系-裁员": [{"trigger": "裁员", "arguments": {"时间": "5月份"}}]}'
    assert iepile_score([answer(Task.EEA, CASES[Task.EEA].items, nested)]).scores["argument"].f1 == 0


def test_two_events_of_a_type_in_one_flat_answer_cost_a_point():
    (event,) = CASES[Task.EEA].items.events
    gold = Items(events=(event, replace(event, trigger="裁减", arguments=())))
    assert iepile_score([answer(Task.EEA, gold, CASES[Task.EEA].answer)]).scores["event"] == IEPileScore.of(1, 1, 2)


@pytest.mark.parametrize(
    "text", ["null", "[]", '{"t": {"arguments": 1}}', '{"t": [{"trigger": 1}, {"arguments": [1]}]}']
)
def test_wrong_shapes_are_passed_over(text):
    assert iepile_score([answer(Task.EE, Items(), text)]).scores["argument"].f1 == 0


def test_other_tasks_and_several_at_once_are_refused():
    with pytest.raises(UserError, match="not spo"):
        iepile_score([answer(Task.SPO, Items(), "{}")])
    with pytest.raises(UserError, match="not ner, re"):
        iepile_score([answer(Task.NER, Items(), "{}"), answer(Task.RE, Items(), "{}")])


@pytest.mark.parametrize(
    ("task", "f1s"),
    [
        (Task.NER, {"entity": 100}),
        (Task.RE, {"relation": 0}),
        (Task.EE, {"event": 100, "argument": 100}),
        (Task.EEA, {"event": 100, "argument": 0}),
    ],
)
def test_its_own_training_answers_score_as_with_the_published_evaluator(task, f1s):
    folder = ie_data(f"iepile_format/{task.upper()}")
    report = iepile_score(iepile_answers(task, folder))
    assert {name: score.f1 for name, score in report.scores.items()} == f1s


def iepile_answers(task: Task, folder) -> list[Answer]:
    """The shipped training answers beside the shipped test labels."""
    golds = {sample.text: sample for _, sample in read_questions(folder / "test.json")}
    rows = [json.loads(line) for line in (folder / "train.json").read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(row["instruction"])["input"] for row in rows]
    return [
        Answer(Sample(text, text, golds[text].items), Question(task, ()), row["output"])
        for text, row in zip(texts, rows, strict=True)
    ]
