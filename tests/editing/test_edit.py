"""An edit refuses what can't be edited, survives JSON, and knows what contradicts it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.editing.edit import Edit, Probe, texts
from src.errors import UserError

FACT = Edit("The capital of France is", "Madrid", "France", ("Paris",), id="1")
WORD = st.text(min_size=1, max_size=8).filter(str.strip)
PROBES = st.lists(st.builds(Probe, WORD, st.lists(WORD, max_size=2, unique=True).map(tuple), WORD), max_size=2).map(
    tuple
)


@given(WORD, WORD, st.lists(WORD, max_size=3, unique=True).map(tuple), PROBES, PROBES, st.none() | WORD)
def test_json_gives_the_same_edit(
    prompt: str, target: str, others: tuple[str, ...], locality: Any, portability: Any, relation: str | None
) -> None:
    edit = Edit(prompt, target, prompt, others, others, locality, portability, relation, id="x")
    assert Edit.from_dict(json.loads(json.dumps(edit.as_dict()))) == edit


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"prompt": " ", "target_new": "x"}, "no prompt"),
        ({"prompt": "x", "target_new": ""}, "no target_new"),
        ({"prompt": "x"}, "target_new is a text"),
        ({"prompt": 5, "target_new": "x"}, "prompt is a text: found 5"),
        ({"prompt": "The sea", "target_new": "x", "subject": "sky"}, "'sky' does not stand in the prompt 'The sea'"),
        ({"prompt": "The sea", "target_new": "x", "subject": ""}, "does not stand"),
        ({"prompt": "x", "target_new": "x", "targets": 1}, "'targets' is no key of an edit"),
        ({"prompt": "x", "target_new": "x", "locality": ["y"]}, "locality is a list of objects"),
        ({"prompt": "x", "target_new": "x", "portability": [{"prompt": " "}]}, "has no prompt"),
        ({"prompt": "x", "target_new": "x", "ground_truth": {"a": 1}}, "ground_truth is a text"),
    ],
)
def test_what_is_no_edit_is_told(data: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Edit.from_dict(data)


def test_the_same_topic_with_another_target_contradicts() -> None:
    assert FACT.contradicts(Edit("the capital of  FRANCE is", "Rome", "FRANCE"))
    assert not FACT.contradicts(Edit("The capital of France is", "madrid", "France"))
    assert not FACT.contradicts(Edit("The capital of Spain is", "Rome", "Spain"))
    by_relation = Edit("France's capital:", "Rome", "France", relation="P36")
    assert by_relation.contradicts(Edit("The capital of France is", "Oslo", "France", relation="P36"))
    assert not by_relation.contradicts(FACT)


def test_aliases_are_kept_once() -> None:
    assert texts([["a", "b"], "b", ["c"]], "x") == ("a", "b", "c")
    assert texts(None, "x") == () and texts(7, "x") == ("7",)
