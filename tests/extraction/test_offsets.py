"""Places of items in their text: which one of several, what is found in another spelling, what is not there."""

import time

from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.extraction.formats.format import Note
from src.extraction.items import Argument, Entity, Event, Items, Relation, Span
from src.extraction.offsets import fold, place

TEXT = st.text("ab  ,.（）(Ａé́ﬁ甲乙１1", max_size=40)


def entity_spans(text: str, *names: str) -> list[Span | None]:
    placed, _ = place(Items(tuple(Entity(name, "t") for name in names)), text)
    return [entity.span for entity in placed.entities]


def test_two_mentions_of_a_text_get_two_places_and_a_third_shares_one():
    assert entity_spans("Paris, Paris", "Paris", "Paris", "Paris") == [(0, 5), (7, 12), (7, 12)]


def test_a_text_does_not_take_a_place_inside_a_longer_one_where_it_has_another():
    assert entity_spans("Paris Hilton was in Paris", "Paris", "Paris Hilton") == [(20, 25), (0, 12)]


def test_a_place_that_cuts_a_word_is_taken_only_where_there_is_no_other():
    assert entity_spans("USA and US", "US") == [(8, 10)]
    assert entity_spans("USA", "US") == [(0, 2)]
    assert entity_spans("北京大学在北京", "大学") == [(2, 4)]


def test_given_spans_stay_and_are_not_taken_again():
    placed, _ = place(Items((Entity("Paris", "t", Span(0, 5)), Entity("Paris", "t"))), "Paris or Paris")
    assert [entity.span for entity in placed.entities] == [(0, 5), (9, 14)]


def test_another_spelling_is_found_and_gives_the_place_in_the_text_as_it_is():
    text = "ＡＢ中国科学院 上海药物研究所和 Oracle（ 甲骨文 ）公司, cafe\u0301, T - shirt"
    names = ["中国科学院上海药物研究所", "Oracle(甲骨文)公司", "café", "T-shirt", "AB"]
    found = [text[span.start : span.end] for span in entity_spans(text, *names)]
    assert found == ["中国科学院 上海药物研究所", "Oracle（ 甲骨文 ）公司", "cafe\u0301", "T - shirt", "ＡＢ"]


def test_half_width_katakana_are_the_full_ones():
    assert entity_spans("東京のｶﾞﾗｽ", "ガラス") == [(3, 7)]


def test_words_are_not_joined_by_folding():
    assert entity_spans("an in side job", "inside") == [None]
    assert entity_spans("New\n  York", "New York") == [(0, 10)]


def test_the_ends_of_a_relation_are_the_nearest_pair():
    text = "Jobs was born. Jobs founded Apple. Later NeXT was made by Jobs."
    placed, _ = place(
        Items(relations=(Relation("Jobs", "founded", "NeXT"), Relation("Jobs", "founded", "Apple"))), text
    )
    assert [(r.head_span, r.tail_span) for r in placed.relations] == [((58, 62), (41, 45)), ((15, 19), (28, 33))]


def test_a_relation_with_itself_has_two_places():
    placed, _ = place(Items(relations=(Relation("A", "beats", "A"),)), "A beats A")
    assert {placed.relations[0].head_span, placed.relations[0].tail_span} == {(0, 1), (8, 9)}


def test_nearest_places_are_found_among_thousands():
    text = "said " * 3000 + "Bob"
    last, bob = (3000 * 5 - 5, 3000 * 5 - 1), (15_000, 15_003)
    for head, tail in (("said", "Bob"), ("Bob", "said")):
        (relation,) = place(Items(relations=(Relation(head, "r", tail),)), text)[0].relations
        assert {relation.head_span, relation.tail_span} == {last, bob}
    events = (Event("e", "said", (Argument("Bob", "who"),)),) * 4 + (Event("e", "said"),)
    spans = [event.span for event in place(Items(events=events), text)[0].events]
    assert spans[0] == last and len(set(spans)) == 5


def test_triggers_are_near_their_arguments_and_each_has_its_own():
    events = (
        Event("裁员", "裁员", (Argument("900人", "人数"),)),
        Event("裁员", "裁员", (Argument("300人", "人数"),)),
        Event("裁员", "裁员"),
    )
    placed, _ = place(Items(events=events), "甲公司裁员300人，乙公司裁员900人，丙裁员")
    assert [event.span for event in placed.events] == [(13, 15), (3, 5), (21, 23)]
    assert placed.events[0].arguments[0].span == (15, 19)


def test_what_is_not_in_the_text_is_counted_and_kept_or_dropped():
    items = Items(
        (Entity("Rome", "t"), Entity("Oslo", "t")),
        (Relation("Rome", "in", "Italy"),),
        (Event("e", "", (Argument("Rome", "r"), Argument("Oslo", "r"))), Event("e", "gone", (Argument("Rome", "r"),))),
    )
    kept, notes = place(items, "Rome")
    assert notes == {Note.NOT_IN_TEXT: 4}
    assert [entity.text for entity in kept.entities] == ["Rome", "Oslo"] and len(kept) == len(items)
    dropped, again = place(items, "Rome", drop_missing=True)
    assert again == notes
    assert [entity.text for entity in dropped.entities] == ["Rome"] and not dropped.relations
    assert dropped.events == (Event("e", "", (Argument("Rome", "r", Span(0, 4)),)),)


@settings(deadline=None)
@given(TEXT, st.data())
def test_a_part_of_a_text_is_found_and_folds_to_the_same(text, data):
    start = data.draw(st.integers(0, len(text)))
    name = text[start : data.draw(st.integers(start, len(text)))]
    (span,) = entity_spans(text, name)
    if name.strip():
        assert span is not None and text[span.start : span.end] == name
    else:
        assert span is None


@settings(deadline=None)
@given(TEXT, TEXT)
def test_whatever_is_placed_folds_to_the_text_of_its_item(text, name):
    (span,) = entity_spans(text, name)
    assert span is None or fold(text[span.start : span.end]) == fold(name)


@settings(deadline=None)
@given(TEXT)
@example("a \u0301")
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)


def test_long_documents_are_quick():
    text = "Anna met Bob in Paris. " * 20_000 + "Zoe too."
    names = ["Anna", "Bob", "Paris", "a", "Nobody"] * 200
    relations = (Relation("Anna", "met", "Bob"), Relation("Nowhere", "in", "Paris"), Relation("Zoe", "met", "Bob")) * 50
    events = (Event("meeting", "met", (Argument("Zoe", "who"), Argument("Paris", "where"))),) * 20
    items = Items(tuple(Entity(name, "t") for name in names), relations, events)
    start = time.perf_counter()
    place(items, text)
    assert time.perf_counter() - start < 5
