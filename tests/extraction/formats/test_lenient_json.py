"""Reading almost-JSON: what is read completely, and whether the object's end was reached."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.extraction.formats.lenient_json import MAX_DEPTH, read_object

# plain texts: which letters a mark could be mistaken for is the other tests' matter
WORD = st.text("ab甲 9-", min_size=1, max_size=6).map(str.strip).filter(bool)
VALUE = st.recursive(WORD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3))


@settings(deadline=None)
@given(st.dictionaries(WORD, VALUE, max_size=3))
def test_objects_are_read_whatever_their_quotes_and_punctuation(value):
    wide = str.maketrans({"{": "｛", "}": "｝", "[": "［", "]": "］", ":": "：", ",": "，"})
    text = json.dumps(value, ensure_ascii=False)
    for written in (text, text.replace('"', "'"), text.translate(wide), repr(value)):
        assert read_object(written, 1) == (value, True)


@settings(deadline=None)
@given(st.dictionaries(WORD, VALUE, max_size=3), st.integers(0, 200))
def test_what_is_read_of_a_cut_object_is_part_of_it(value, length):
    found, complete = read_object(json.dumps(value, ensure_ascii=False)[: length + 1], 1)
    assert is_part(found, value)
    assert complete == (length + 1 >= len(json.dumps(value, ensure_ascii=False)))


def is_part(found, whole) -> bool:
    if isinstance(whole, dict):
        return isinstance(found, dict) and all(key in whole and is_part(found[key], whole[key]) for key in found)
    if isinstance(whole, list):
        return len(found) <= len(whole) and all(map(is_part, found, whole))
    return found == whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": ["x"}', {"a": ["x"]}),
        ('{"a": {"b": [1, 2}, "c": 3}', {"a": {"b": [1, 2]}, "c": 3}),
        ('{"a": ["x"]]}', {"a": ["x"]}),
        ('{"a": [{"b": 1]}', {"a": [{"b": 1}]}),
        ('{"a": ["x"] "b": ["y"]}', {"a": ["x"], "b": ["y"]}),
        ('{"a": [{"s": 1} {"s": 2}]}', {"a": [{"s": 1}, {"s": 2}]}),
    ],
)
def test_brackets_and_commas_may_be_wrong_or_missing(text, value):
    assert read_object(text, 1) == (value, True)


def test_depth_is_bounded():
    assert read_object('{"a": ' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), 1)[1] is False
