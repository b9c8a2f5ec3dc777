"""KnowLM's text formats: prompts to the letter, answers written and read back, what models do around them."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.answer_mutations import mutated
from src.errors import UserError
from src.extraction.formats.format import Note, Status
from src.extraction.formats.knowlm import KnowLM
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.schema import EntityType, EventType, Question, RelationType, Role, Task
from src.models.conversation import Message
from tests.extraction.answers_of_tasks import CASES

TEXT = "Reed, Inc. was founded by Alan Reed, born in Paris (Texas), France"
RELATIONS = Question(Task.RE, (RelationType("founder"), RelationType("born in")), "en")
FOUNDED = Relation("Reed, Inc.", "founder", "Alan Reed")
NAMES = [Task.NER, Task.RE, Task.EE, Task.EET, Task.EEA]


def test_the_prompt_of_knowlm_is_its_template_filled():
    question = Question(Task.NER, (EntityType("人物"), EntityType("地理位置")), "zh")
    assert KnowLM("knowlm").message(question, "文") == Message(
        "user",
        "你是专门进行实体抽取的专家。已知候选的实体类型列表：['人物', '地理位置']，请你根据实体类型列表，从以下输入中"
        "抽取出可能存在的实体，如果不存在某实体就输出NAN。请按照(实体,实体类型)\n的格式回答。",
        "文",
    )


def test_the_prompt_of_zhixi_is_its_template_filled():
    assert KnowLM("zhixi").message(replace(RELATIONS, language="zh"), "t").content == (
        "已知候选的关系列表：['founder', 'born in']，请你根据关系列表，从以下输入中抽取出可能存在的头实体与尾实体，"
        '并给出对应的关系三元组。请按照"(头实体,关系,尾实体)"的格式回答。'
    )


def test_event_prompts_name_roles_and_given_triggers():
    event = EventType("裁员", (Role("时间"), Role("人数")))
    given = KnowLM("knowlm").message(Question(Task.EEA, (event,), "zh", {"裁员": ("裁", "减")}), "t").content
    assert "事件字典：{'裁员': ['时间', '人数']}" in given
    triggers = "[{'event_type': '裁员', 'event_trigger': '裁'}, {'event_type': '裁员', 'event_trigger': '减'}]"
    assert f"事件类型及触发词：{triggers}" in given
    assert (
        "列表：['裁员']，论元角色列表：['时间', '人数']"
        in KnowLM("zhixi").message(Question(Task.EE, (event,), "zh"), "t").content
    )


@pytest.mark.parametrize(
    ("name", "form", "answer"),
    [
        ("knowlm", 0, "(Reed, Inc.,founder,Alan Reed)\nNAN"),
        ("knowlm", 1, "Subject is Reed, Inc.,Relation is founder,Object is Alan Reed\nNAN"),
        ("knowlm", 2, "founder：Reed, Inc.,Alan Reed\nNAN"),
        ("knowlm", 3, "{'head': 'Reed, Inc.', 'relation': 'founder', 'tail': 'Alan Reed'}\nNAN"),
        ("zhixi", 0, "(Reed, Inc., founder, Alan Reed)"),
    ],
)
def test_all_forms_are_written_and_read_with_commas_inside_entities(name, form, answer):
    format, items = KnowLM(name, form), Items(relations=(FOUNDED,))
    assert format.answer(RELATIONS, items, TEXT) == answer
    for reader in (format, KnowLM("knowlm"), KnowLM("zhixi")):
        parsed = reader.parse(answer, RELATIONS, TEXT, strict=True)
        assert (parsed.items, parsed.status, dict(parsed.notes)) == (items, Status.EXACT, {})


@pytest.mark.parametrize("name", ["knowlm", "zhixi"])
@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_right_answer_of_every_task_is_read_back(name, task, language):
    case, format = CASES[task], KnowLM(name)
    question = replace(case.question, language=language)
    parsed = format.parse(format.answer(question, case.items, case.text), question, case.text, strict=True)
    assert (parsed.items, parsed.status, dict(parsed.notes)) == (case.items, Status.EXACT, {})
    nothing = format.answer(question, Items(), case.text)
    assert format.parse(nothing, question, case.text, strict=True).items == Items()
    assert nothing.endswith("NAN") and nothing.count("NAN") == 1


WORDS = st.text("ab 甲乙-'", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, st.sampled_from(["loc", "人物"])), max_size=5), st.sampled_from([0, 1, 2, 3]))
def test_entities_written_down_are_read_back(pairs, form):
    question = Question(Task.NER, (EntityType("loc"), EntityType("人物")), "en")
    items = Items(tuple(Entity(text, type) for text, type in dict.fromkeys(pairs)))
    text = ", ".join(text for text, _ in pairs)
    format = KnowLM("knowlm", form)
    found = format.parse(format.answer(question, items, text), question, text)
    assert set(found.items.entities) == set(items.entities)


@pytest.mark.parametrize(
    "answer",
    [
        "1. (Reed, Inc. , founder, Alan Reed)",
        "- （Reed, Inc.，founder，Alan Reed）",
        "Sure! (Reed, Inc.,founder,Alan Reed).",
        "(Reed, Inc.,founder,Alan Reed)\n\nI hope that helps.",
        "(Reed, Inc.,founder,Alan Reed)\n(Alan Re",
        "(Reed, Inc.,FOUNDER,Alan Reed),(Alan Reed,born in,NAN)",
    ],
)
def test_what_models_write_around_an_item_is_passed_over(answer):
    assert KnowLM("knowlm").parse(answer, RELATIONS, TEXT).items == Items(relations=(FOUNDED,))


def test_a_relation_with_a_colon_is_read_by_its_whole_name():
    question = Question(Task.RE, (RelationType("饰演"), RelationType("饰演:inWork")), "zh")
    items = Items(relations=(Relation("邓莎", "饰演", "小玉儿"), Relation("邓莎", "饰演:inWork", "笑傲江湖")))
    text = "邓莎在笑傲江湖里饰演小玉儿"
    format = KnowLM("knowlm", 2)
    parsed = format.parse(format.answer(question, items, text), question, text)
    assert parsed.items == items and parsed.status is Status.EXACT


@pytest.mark.parametrize("name", ["（charles", "turan）", "天禄)电子竞技,俱乐部", "《伊苏(YsI&II"])
def test_half_a_pair_of_brackets_in_a_text_is_read_where_the_text_holds_it(name):
    question = Question(Task.NER, (EntityType("name"),))
    answer = f"({name},name)\n(Bo,name)"
    assert {entity.text for entity in KnowLM().parse(answer, question, f"{name} and Bo").items.entities} == {name, "Bo"}
    assert [entity.text for entity in KnowLM().parse(answer, question, "Bo").items.entities][-1] == "Bo"


def test_brackets_inside_an_entity_stay():
    parsed = KnowLM("knowlm").parse("(Alan Reed,born in,Paris (Texas), France)", RELATIONS, TEXT)
    assert parsed.items.relations == (Relation("Alan Reed", "born in", "Paris (Texas), France"),)


@pytest.mark.parametrize("answer", ["NAN", "NAN\nNAN", "No relation triples found.", "无", "没有找到关系。"])
def test_a_refusal_is_an_empty_answer_and_no_failure(answer):
    parsed = KnowLM("knowlm").parse(answer, RELATIONS, TEXT)
    assert parsed.status is Status.EXACT and not len(parsed.items)


@pytest.mark.parametrize("answer", ["", "I do not know", "(((", "a,b,c"])
def test_what_states_nothing_fails(answer):
    assert KnowLM("knowlm").parse(answer, RELATIONS, TEXT).status is Status.FAILED


def test_rungs_and_notes_say_what_was_wrong():
    read = KnowLM("knowlm").parse
    assert read("(Reed, Inc.,founder,Alan Reed)\n(Alan", RELATIONS, TEXT).status is Status.CLOSED
    assert read("See: (Reed, Inc.,founder,Alan Reed)", RELATIONS, TEXT).status is Status.TRIMMED
    assert read("(a,spouse,b)", RELATIONS, TEXT).notes == {Note.HALLUCINATED_SCHEMA: 1}
    assert read("(a,b)", RELATIONS, TEXT).notes == {Note.WRONG_SHAPE: 1}
    twice = "(Reed, Inc.,founder,Alan Reed)\n(Reed, Inc.,founder,Alan Reed)"
    assert read(twice, RELATIONS, TEXT).notes == {Note.DUPLICATE: 1}
    assert read("See: (a,founder,b)", RELATIONS, TEXT, strict=True).status is Status.FAILED


def test_arguments_are_read_with_role_and_text_in_either_order():
    case = CASES[Task.EE]
    for answer in (
        "(裁员,组织关系-裁员,时间#5月份;裁员人数#900余人)",
        "(裁员,组织关系-裁员,5月份#时间;900余人#裁员人数)",
        "(裁员,组织关系-裁员,[(5月份,时间),(900余人,裁员人数)])",
        "(组织关系-裁员, 裁员, 时间#5月份; 裁员人数#900余人; 裁员方#NAN)",
    ):
        format = KnowLM("zhixi" if answer.startswith("(组织") else "knowlm")
        question = replace(case.question, language="en")
        assert format.parse(answer, question, case.text).items == case.items


def test_a_semicolon_in_an_argument_stays_and_an_unknown_role_is_counted():
    question = Question(Task.EE, (EventType("say", (Role("what"),)),), "en")
    parsed = KnowLM("knowlm").parse("(said,say,what#yes; no;who#Al)", question, "Al said yes; no")
    assert parsed.items.events == (Event("say", "said", (Argument("yes; no", "what"),)),)
    assert parsed.notes == {Note.HALLUCINATED_SCHEMA: 1}


@pytest.mark.parametrize("task", [Task.SPO, Task.KG])
def test_tasks_the_formats_do_not_have_are_refused(task):
    case = CASES[task]
    with pytest.raises(UserError, match="format=oneke"):
        KnowLM("knowlm").message(case.question, case.text)
    with pytest.raises(UserError, match="format=oneke"):
        KnowLM("zhixi").answer(case.question, case.items, case.text)


def test_unknown_names_and_forms_are_refused():
    with pytest.raises(UserError, match="knowlm or zhixi"):
        KnowLM("alpaca")
    with pytest.raises(UserError, match="zhixi has 0"):
        KnowLM("zhixi", 1)


def test_no_mutated_answer_makes_reading_fail():
    generator = random.Random(0)
    formats = [KnowLM("knowlm", form) for form in range(4)] + [KnowLM("zhixi")]
    for number in range(1000):
        case, format = CASES[NAMES[number % 5]], formats[number % 4 if number % 7 else 4]
        format.parse(mutated(format.answer(case.question, case.items, case.text), generator), case.question, case.text)


@pytest.mark.parametrize(
    "piece", ["(", "(a,founder,b)", "((a", ",", "实体是 ", "{'a': ", "founder: ", " ", "头实体是 , 关系是"]
)
def test_time_grows_with_length_and_no_faster(piece):
    start = time.perf_counter()
    KnowLM("knowlm").parse(piece * (200_000 // len(piece)), RELATIONS, TEXT)
    KnowLM("knowlm").parse((piece * (40_000 // len(piece)) + "\n") * 5, RELATIONS, TEXT)
    assert time.perf_counter() - start < 5
