"""Scores against counts made by hand, for each task; what does not depend on order, repeats and surroundings."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.extraction.formats.format import Note, Status
from src.extraction.formats.oneke import OneKE
from src.extraction.items import Argument, Entity, Event, Items, Relation, Sample
from src.extraction.schema import Task
from src.extraction.scoring.scoring import Answer, Counts, Graded, grade, score
from tests.extraction.answers_of_tasks import CASES


def counts(task: Task, gold: Items, found: Items, view: str, **how) -> tuple[int, int, int]:
    total = score([Graded(Sample("1", "", gold), found, task)], **how).scores[task][view].total
    return total.right, total.found, total.expected


def test_entities_are_right_by_text_and_type():
    gold = Items((Entity("Paris", "loc"), Entity("Curie", "per"), Entity("Radium", "thing")))
    found = Items((Entity("Paris ", "loc"), Entity("Curie", "loc"), Entity("Oslo", "loc")))
    assert counts(Task.NER, gold, found, "entity") == (1, 3, 3)


def test_repeats_count_in_a_multiset_only():
    gold, found = Items((Entity("A", "t"),) * 2), Items((Entity("A", "t"),) * 3)
    assert counts(Task.NER, gold, found, "entity") == (1, 1, 1)
    assert counts(Task.NER, gold, found, "entity", mode="multiset") == (2, 3, 2)


def test_relations_have_a_direction_and_types_only_where_they_are_asked_for():
    gold = Items(relations=(Relation("a", "r", "b", "X", "Y"), Relation("c", "r", "d", "X", "Y")))
    found = Items(relations=(Relation("a", "r", "b", "X", "Z"), Relation("d", "r", "c", "X", "Y")))
    assert counts(Task.RE, gold, found, "triple") == (1, 2, 2)
    assert counts(Task.SPO, gold, found, "typed_triple") == (0, 2, 2)
    assert counts(Task.SPO, gold, found, "triple") == (1, 2, 2)


def test_types_that_gold_relations_do_not_have_are_not_compared():
    gold = Items(relations=(Relation("a", "r", "b"),))
    assert counts(Task.SPO, gold, Items(relations=(Relation("a", "r", "b", "X", "Y"),)), "typed_triple") == (1, 1, 1)
    assert counts(Task.KG, gold, Items(relations=(Relation("a", "r", "b", "X"),)), "attribute") == (1, 1, 1)


def test_events_have_triggers_and_arguments():
    gold = Items(events=(Event("die", "shot", (Argument("Al", "victim"), Argument("1999", "time"))), Event("die", "")))
    found = Items(events=(Event("die", "killed", (Argument("Al", "victim"), Argument("Al", "time"))),))
    assert counts(Task.EE, gold, found, "trigger") == (0, 1, 1)
    assert counts(Task.EE, gold, found, "argument") == (1, 2, 2)
    assert counts(Task.EE, gold, found, "argument", match="under_trigger") == (0, 2, 2)
    assert counts(Task.EET, gold, found, "trigger") == (0, 1, 1)
    assert counts(Task.EEA, gold, found, "argument") == (1, 2, 2)


def test_attributes_count_each_value_and_entities_once():
    gold = Items((Entity("a", "P"),), (Relation("a", "alias", "b", "P"), Relation("a", "alias", "c", "P")))
    found = Items((Entity("z", "P"),), (Relation("a", "alias", "b", "P"), Relation("a", "born", "c", "P")))
    assert counts(Task.KG, gold, found, "attribute") == (1, 2, 2)
    assert counts(Task.KG, gold, found, "entity") == (1, 2, 1)


def test_rates_are_in_percent_and_0_where_there_is_nothing():
    assert Counts(1, 2, 4).precision == 50 and Counts(1, 2, 4).recall == 25
    assert Counts(1, 2, 4).f1 == pytest.approx(100 / 3)
    assert Counts().f1 == Counts().precision == Counts(0, 0, 3).recall == 0


def test_records_are_added_up_by_type_source_and_topic():
    gold = Items((Entity("A", "x"), Entity("B", "y")))
    records = [
        Graded(Sample("1", "", gold, "news", "art"), Items((Entity("A", "x"),)), Task.NER),
        Graded(Sample("1", "", gold, "web", "art"), Items((Entity("A", "x"), Entity("B", "y"))), Task.NER),
        Graded(Sample("2", "", Items(), "web"), Items((Entity("C", "z"),)), Task.NER),
    ]
    found = score(records).scores[Task.NER]["entity"]
    assert found.total == Counts(3, 4, 4)
    assert found.by_type == {"x": Counts(2, 2, 2), "y": Counts(1, 1, 2), "z": Counts(0, 1, 0)}
    assert found.by_source == {"news": Counts(1, 1, 2), "web": Counts(2, 3, 2)}
    assert found.by_category == {"art": Counts(3, 3, 4)}
    assert found.exact == 1
    assert found.macro_f1 == pytest.approx((100 + 200 / 3) / 2)  # of x and y: z is expected nowhere


def test_tasks_are_scored_apart_and_together():
    gold = Items((Entity("A", "x"),), (Relation("A", "r", "B"),))
    report = score([Graded(Sample("1", "", gold), gold, Task.NER), Graded(Sample("1", "", gold), Items(), Task.RE)])
    assert [str(task) for task in report.scores] == ["ner", "re"]
    assert report.f1 == pytest.approx(200 / 3)


def test_the_interval_holds_the_f1_and_is_the_same_for_a_seed():
    generator = random.Random(0)
    names = [Entity(str(number), "t") for number in range(20)]
    records = []
    for number in range(100):
        gold = generator.sample(names, 3)
        records.append(Graded(Sample(str(number), "", Items(tuple(gold))), Items(tuple(gold[: number % 4])), Task.NER))
    found = score(records).scores[Task.NER]["entity"]
    low, high = found.interval()
    assert low < found.total.f1 < high and high - low < 20
    assert found.interval() == (low, high)


@pytest.mark.parametrize("task", list(Task))
def test_the_right_answer_scores_100_for_every_task_however_it_is_wrapped(task):
    case, format = CASES[task], OneKE()
    gold = Sample("1", case.text, case.items)
    for text in (
        case.answer,
        f" {case.answer}",
        f"```json\n{case.answer}\n```",
        case.answer.replace("subject", "head"),
    ):
        report = score(grade([Answer(gold, case.question, text)], format))
        assert {each.total.f1 for each in report.scores[task].values()} == {100}
        assert report.failed == 0 and not report.notes


def test_answers_of_one_sample_are_graded_as_one():
    case, format = CASES[Task.NER], OneKE()
    gold = Sample("1", case.text, case.items, "news")
    texts = ['{"组织机构": ["青岛海牛队"], "人物": []}', '{"组织机构": ["广州松日队"], "人物": ["无此人"]}', "not JSON"]
    (record,) = grade([Answer(gold, case.question, text) for text in texts], format)
    assert record.statuses == {Status.EXACT: 2, Status.FAILED: 1} and record.notes[Note.NOT_IN_TEXT] == 1
    assert score([record]).scores[Task.NER]["entity"].total == Counts(2, 3, 2)


def test_texts_that_share_an_id_are_told_apart_by_their_labels():
    case = CASES[Task.NER]
    other = Items(case.items.entities[:1])
    samples = [Sample("", case.text, items) for items in (case.items, other)]
    answers = [
        Answer(sample, case.question, OneKE().answer(case.question, sample.items, case.text)) for sample in samples
    ]
    report = score(grade(answers, OneKE()))
    assert report.records == 2 and report.scores[Task.NER]["entity"].total == Counts(3, 3, 3)


def test_what_an_answer_repeats_counts_in_a_multiset_only():
    case = CASES[Task.NER]
    (graded,) = grade([Answer(Sample("1", "甲", Items()), case.question, '{"人物": ["甲", "甲"]}')], OneKE())
    assert graded.notes[Note.DUPLICATE] == 1
    assert counts(Task.NER, Items(), graded.found, "entity") == (0, 1, 0)
    assert counts(Task.NER, Items(), graded.found, "entity", mode="multiset") == (0, 2, 0)


def test_an_event_that_two_prompts_asked_about_is_one_event():
    case, format = CASES[Task.EE], OneKE()
    gold = Sample("1", case.text, case.items)
    halves = [
        '{"组织关系-裁员": [{"trigger": "裁员", "arguments": {"时间": "5月份"}}]}',
        '{"组织关系-裁员": [{"trigger": "裁员", "arguments": {"裁员人数": "900余人"}}]}',
    ]
    graded = grade([Answer(gold, case.question, half) for half in halves], format)
    report = score(graded, mode="multiset")
    assert {view: each.total.f1 for view, each in report.scores[Task.EE].items()} == {"argument": 100, "trigger": 100}


def test_strict_reading_counts_what_it_can_not_read_as_missed():
    case, format = CASES[Task.NER], OneKE()
    answers = [Answer(Sample("1", case.text, case.items), case.question, f"```{case.answer}```")]
    assert score(grade(answers, format)).f1 == 100
    strict = score(grade(answers, format, strict=True))
    assert strict.f1 == 0 and strict.failed == 1
    assert strict.as_dict(draws=10)["tasks"]["ner"]["entity"]["micro"]["expected"] == 2


ENTITIES = st.lists(st.builds(Entity, st.sampled_from("ABC"), st.sampled_from("xy")), max_size=8)


@settings(deadline=None)
@given(ENTITIES, ENTITIES, st.randoms(use_true_random=False))
def test_in_set_mode_order_and_repeats_do_not_matter(gold, found, generator):
    again = found + found[: len(found) // 2]
    generator.shuffle(again)
    first, second = (counts(Task.NER, Items(tuple(gold)), Items(tuple(each)), "entity") for each in (found, again))
    assert first == second


@settings(deadline=None)
@given(ENTITIES, ENTITIES, st.sampled_from(["set", "multiset"]))
def test_counts_are_bounded_and_gold_against_gold_is_100(gold, found, mode):
    right, predicted, expected = counts(Task.NER, Items(tuple(gold)), Items(tuple(found)), "entity", mode=mode)
    assert 0 <= right <= min(predicted, expected)
    scores = Counts(right, predicted, expected)
    low, high = sorted([scores.precision, scores.recall])
    assert low - 1e-9 <= scores.f1 <= high + 1e-9
    same = counts(Task.NER, Items(tuple(gold)), Items(tuple(gold)), "entity", mode=mode)
    assert Counts(*same).f1 == (100 if gold else 0)


def test_a_hundred_thousand_items_take_seconds():
    generator = random.Random(0)
    records = [
        Graded(
            Sample(str(number), "", Items(tuple(Entity(str(generator.randrange(50)), "t") for _ in range(5)))),
            Items(tuple(Entity(str(generator.randrange(50)), "t") for _ in range(5))),
            Task.NER,
            Counter({Status.EXACT: 1}),
        )
        for number in range(10_000)
    ]
    start = time.perf_counter()
    assert score(records).statuses == {Status.EXACT: 10_000}
    assert time.perf_counter() - start < 4
