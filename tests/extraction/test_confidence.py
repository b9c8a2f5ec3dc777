"""Scores of items: the product of the probabilities of the tokens that hold them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.extraction.confidence import leaves_of, score_items
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.generation.engine import TokenLogprob


def tokens(*parts: tuple[str | bytes, float]) -> tuple[TokenLogprob, ...]:
    """Tokens with their probabilities."""
    raw = [(part.encode() if isinstance(part, str) else part, probability) for part, probability in parts]
    return tuple(TokenLogprob(part.decode("utf-8", "replace"), part, math.log(value)) for part, value in raw)


def one_a_letter(answer: str) -> tuple[TokenLogprob, ...]:
    return tokens(*((letter, 0.9) for letter in answer))


def test_an_entity_has_the_probability_of_its_tokens() -> None:
    said = tokens((' {"city": ["', 0.1), ("New", 0.5), (" York", 0.8), ('", "Par', 0.5), ("is", 0.5), ('"]}', 1.0))
    answer = "".join(token.token for token in said).strip()
    found = score_items(Items((Entity("New York", "city"), Entity("Paris", "city"))), answer, said)
    assert [entity.score for entity in found.entities] == pytest.approx([0.4, 0.25])


def test_half_characters_are_counted_once_each() -> None:
    raw = '{"地": ["中国"]}'.encode()
    cut = raw.index("中".encode()) + 1
    said = tokens((raw[:cut], 0.5), (raw[cut : cut + 2], 0.5), (raw[cut + 2 :], 0.5))
    found = score_items(Items((Entity("中国", "地"),)), raw.decode(), said)
    assert found.entities[0].score == pytest.approx(0.125)


def test_a_relation_has_the_product_of_its_own_two_ends() -> None:
    answer = '{"born in": [{"subject": "Bo", "object": "Rome"}, {"subject": "Bo", "object": "Y"}]}'
    found = score_items(Items(relations=(Relation("Bo", "born in", "Y"),)), answer, one_a_letter(answer))
    assert found.relations[0].score == pytest.approx(0.9**3)


def test_an_attribute_of_a_record_is_scored_with_the_records_name() -> None:
    answer = '{"person": {"Ada": {"alias": ["Countess", "Lady"], "born": "1815"}}}'
    items = Items((Entity("Ada", "person"),), (Relation("Ada", "alias", "Lady"), Relation("Ada", "born", "1815")))
    found = score_items(items, answer, one_a_letter(answer))
    assert found.entities[0].score == pytest.approx(0.9**3)
    assert [relation.score for relation in found.relations] == pytest.approx([0.9**7, 0.9**7])


def test_events_and_their_arguments_have_scores_and_no_trigger_has_none() -> None:
    answer = '{"layoff": [{"trigger": "cut", "arguments": {"who": ["IBM", "HP"], "when": "May"}}, {"trigger": "NAN"}]}'
    event = Event("layoff", "cut", (Argument("HP", "who"), Argument("May", "when")))
    found = score_items(Items(events=(event, Event("layoff"))), answer, one_a_letter(answer))
    assert found.events[0].score == pytest.approx(0.9**3) and found.events[1].score is None
    assert [argument.score for argument in found.events[0].arguments] == pytest.approx([0.9**2, 0.9**3])


def test_an_answer_that_is_no_json_is_searched_for_the_texts() -> None:
    answer = "(Ada,born in,London)"
    found = score_items(Items(relations=(Relation("Ada", "born in", "London"),)), answer, one_a_letter(answer))
    assert found.relations[0].score == pytest.approx(0.9**9)


def test_tokens_that_do_not_spell_the_answer_give_no_scores() -> None:
    items = Items((Entity("a", "t"),))
    assert score_items(items, '{"t": ["a"]}', tokens(("other", 0.5))) == items
    assert score_items(items, '{"t": ["a"]}', ()) == items


def test_a_text_with_escapes_is_found() -> None:
    answer = json.dumps({"t": ['say "hi"\n', "b\\"]})
    found = score_items(Items((Entity('say "hi"', "t"), Entity("b\\", "t"))), answer, one_a_letter(answer))
    assert [entity.score for entity in found.entities] == pytest.approx([0.9**12, 0.9**3])


TEXT = st.text(st.sampled_from('a"\\{}[], \n中'), max_size=4)
JSON = st.recursive(
    TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(TEXT, JSON, max_size=3))
def test_leaves_are_all_texts_of_an_object(value: dict[str, object]) -> None:
    def texts(part: object) -> list[str]:
        if isinstance(part, dict):
            return [text for key, inner in part.items() for text in [key, *texts(inner)]]
        return [text for inner in part for text in texts(inner)] if isinstance(part, list) else [str(part)]

    answer = json.dumps(value, ensure_ascii=False)
    leaves = list(leaves_of(answer))
    assert [leaf.text for leaf in leaves] == texts(value)
    assert all(json.loads(answer[leaf.start - 1 : leaf.end + 1]) == leaf.text for leaf in leaves)


@given(st.text(st.sampled_from('{}[]",:\\a 1'), max_size=60))
def test_leaves_of_anything_never_raise(answer: str) -> None:
    leaves = list(leaves_of(answer))
    assert all(0 < leaf.start <= leaf.end <= len(answer) for leaf in leaves)
    score_items(Items((Entity("a", "a"),)), answer, one_a_letter(answer))
