"""The ladder from an answer to its object: each rung, what is never invented, that nothing makes it fail or slow."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.answer_mutations import mutated
from src.extraction.formats.format import Status
from src.extraction.formats.oneke import OneKE
from src.extraction.formats.parsing import MAX_CHARS, parse_object
from tests.extraction.answers_of_tasks import CASES

GOOD = {"a": ["x", "y"], "b": []}
TEXT = json.dumps(GOOD)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (TEXT, Status.EXACT),
        (f"\n {TEXT} \n", Status.EXACT),
        (f"\ufeff{TEXT}", Status.TRIMMED),
        (f"```json\n{TEXT}\n```", Status.TRIMMED),
        (f"输入中包含的实体是：{TEXT}。以上", Status.TRIMMED),
        (f'{TEXT}{{"a": ["another"]}}', Status.TRIMMED),
        (f'<think>{{"a": ["no"]}}</think>{TEXT}', Status.TRIMMED),
        (f"I use {{braces}}, see: {TEXT}", Status.TRIMMED),
        ("{'a': ['x', 'y'], 'b': []}", Status.LENIENT),
        ("｛“a”：［“x”，“y”］，“b”：［］｝", Status.LENIENT),
        ('{"a": ["x", "y",], "b": [],}', Status.LENIENT),
        ('{"a": ["x" "y"], "b": []}', Status.LENIENT),
        ('{"a": ["x", "y", "b": []}', Status.LENIENT),
        ('{"a: ["x", "y"], b: []}', Status.LENIENT),
        ('{"a" ["x", "y"], "b": []}', Status.LENIENT),
        ("{a: [x, y], b: []}", Status.LENIENT),
        ('"a": ["x", "y"], "b": []', Status.CLOSED),
        ('{"a": ["x", "y"], "b": [', Status.CLOSED),
        ('{"a": ["x", "y"], "b": ["unfini', Status.CLOSED),
        ('{"a": ["x", "y"], "b": []\n\n### Instruction:\nNow list three colours.', Status.CLOSED),
    ],
)
def test_each_rung_gives_the_same_object(answer, status):
    assert parse_object(answer) == (GOOD, status)


@pytest.mark.parametrize("answer", ["", " ", "nothing found", "{", '{"a', "[]", '"a"', "null", "12", "{[(", "[[["])
def test_what_states_no_object_fails(answer):
    assert parse_object(answer) == (None, Status.FAILED)


@pytest.mark.parametrize("answer", [f"```{TEXT}```", "{'a': []}", '{"a": ["x"', f"{TEXT}{TEXT}"])
def test_strict_takes_exact_json_only(answer):
    assert parse_object(answer, strict=True) == (None, Status.FAILED)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": ["x", "half a na', {"a": ["x"]}),
        ('{"a": [{"subject": "s", "object": "o"}, {"subj', {"a": [{"subject": "s", "object": "o"}]}),
        ('{"a": [{"trigger": "t", "arguments": {"时间": "5月', {"a": [{"trigger": "t", "arguments": {}}]}),
        ('{"a": ["x"], "n": 12', {"a": ["x"]}),
        ('{"a": ["x"], "n": nu', {"a": ["x"]}),
    ],
)
def test_of_a_cut_answer_no_half_value_is_taken(answer, value):
    assert parse_object(answer) == (value, Status.CLOSED)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": ["he said "hi" to"]}', 'he said "hi" to'),
        ("{'a': ['it's ok']}", "it's ok"),
        ('{"a": ["tab\there"]}', "tab\there"),
        ('{"a": ["C:\\dir"],}', "C:\\dir"),
        ("{'a': ['\\u5f20\\u4e09 \\ud83d\\ude00']}", "张三 😀"),
        ('{"a": ["“字字有来历”"],}', "“字字有来历”"),
        (repr({"a": ["Rozen\xa0Maiden"]}), "Rozen\xa0Maiden"),
    ],
)
def test_strings_hold_what_was_meant(answer, value):
    assert parse_object(answer)[0] == {"a": [value]}


def test_words_of_other_languages_for_nothing_and_truth_are_read():
    assert parse_object("{'a': None, 'b': True, 'c': NaN, 'd': false, 'e': 1.5}")[0] == {
        "a": None,
        "b": True,
        "c": None,
        "d": False,
        "e": 1.5,
    }
    assert parse_object('{"a": NaN}', strict=True) == ({"a": None}, Status.EXACT)


def test_numbers_keep_their_spelling():
    for text in ('{"a": [1.50, 1e3, 7, 2.5]}', "{'a': [1.50, 1e3, 7, 2.5]}"):
        assert parse_object(text)[0] == {"a": ["1.50", "1e3", 7, 2.5]}
    assert parse_object("{a: [007, １２]}")[0] == {"a": ["007", "１２"]}


def test_half_a_surrogate_pair_becomes_a_character_that_can_be_written():
    for answer in ('{"a": "\\ud83d"}', "{'a': '\\ud83d'}", '{"a": "\ud83d"}'):
        assert parse_object(answer)[0] == {"a": "\ufffd"}


def test_answers_too_long_or_too_deep_are_not_read():
    assert parse_object(json.dumps({"a": "x" * MAX_CHARS}))[1] is Status.FAILED
    deep = '{"a": ' + "[" * 100 + "]" * 100 + "}"
    assert parse_object(deep) == parse_object(deep, strict=True) == (None, Status.FAILED)


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_json_gives_the_same_with_and_without_tolerance(value):
    text = json.dumps(value, ensure_ascii=False)
    found = parse_object(text)
    assert found == parse_object(text, strict=True)
    assert found[1] is Status.EXACT


@settings(deadline=None)
@given(st.text(alphabet="{}[]\"'“”:：,，\\ \nau1无", max_size=60))
def test_no_text_makes_it_fail(text):
    value, status = parse_object(text)
    assert (value is None) == (status is Status.FAILED)
    json.dumps(value, ensure_ascii=False).encode()


def test_fuzz_no_mutated_answer_makes_reading_fail_and_valid_ones_read_as_strictly():
    generator, format, statuses = random.Random(0), OneKE(), set()
    for _ in range(300):
        for case in CASES.values():
            answer = mutated(case.answer, generator)
            parsed = format.parse(answer, case.question, case.text)
            strict = format.parse(answer, case.question, case.text, strict=True)
            statuses.add(parsed.status)
            assert (strict.status is Status.EXACT) == (parsed.status is Status.EXACT)
            if strict.status is Status.EXACT:
                assert (strict.items, strict.notes) == (parsed.items, parsed.notes)
    assert statuses >= {Status.EXACT, Status.TRIMMED, Status.LENIENT, Status.CLOSED, Status.FAILED}


@pytest.mark.parametrize(
    "piece", ['{"a": [', "[", '"', "' ", '"", ', "\\", " ", "a:", '{"a":1,', "{ ", "{aaaa", '"   ', '{"a: 1, "b: 1, ']
)
def test_time_grows_with_length_and_no_faster(piece):
    start = time.perf_counter()
    parse_object('{"k": ["' + piece * (300_000 // len(piece)))
    parse_object(piece * (300_000 // len(piece)))
    assert time.perf_counter() - start < 5


def test_json_repair_is_the_last_rung():
    pytest.importorskip("json_repair")
    assert parse_object('{"a" "x"}') == ({"a": "x"}, Status.REPAIRED)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"p": ["a"], "p": ["b"]}', {"p": ["a", "b"]}),
        ('{"p": {"Ada": {"x": "1"}, "Ada": {"y": ["2"]}}}', {"p": {"Ada": {"x": "1", "y": ["2"]}}}),
        ('{"p": {"A": {"x": "1"}, "A": {"x": "2"}, "A": {"x": ["3"]}}}', {"p": {"A": {"x": ["1", "2", "3"]}}}),
        ('{"p": [{"s": "1", "s": "2"}]}', {"p": [{"s": "2"}]}),
        ("{'p': {'Ada': {'x': '1'}, 'Ada': {'y': ['2', 'unfini", {"p": {"Ada": {"x": "1", "y": ["2"]}}}),
    ],
)
def test_what_stands_under_a_key_again_is_not_lost(answer, value):
    assert parse_object(answer)[0] == value


@pytest.mark.parametrize("member", ['"a": ["x"]', '"a": {"b": "x", "c": ["y"]}'])
def test_many_equal_keys_are_read_in_linear_time(member):
    answer = "{" + ", ".join([member] * 25_000) + "}"
    begin = time.process_time()
    found, _ = parse_object(answer)
    assert found is not None and time.process_time() - begin < 2
