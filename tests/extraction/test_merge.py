"""Parts of a document's items as one: batches, chunks, permutations, conflicts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.extraction.items import Argument, Entity, Event, Items, Relation, Span
from src.extraction.merge import (
    Conflict,
    conflicts,
    item_keys,
    join_untriggered,
    merge_chunk,
    shifted,
    sum_items,
    unique,
    vote,
)

A, B = Entity("Ada", "person", Span(0, 3), 0.5), Entity("Bern", "place", Span(10, 14))


def test_an_entity_of_two_chunks_is_one_with_its_first_place_and_its_highest_score() -> None:
    again = Entity("Ada", "person", Span(40, 43), 0.9)
    assert unique(Items((again, B, A))).entities == (replace(A, score=0.9), B)
    assert unique(Items((again, B, A, A)), "all").entities == (A, B, again)


def test_a_fact_stated_twice_is_one_relation_and_direction_counts() -> None:
    first = Relation("Ada", "knows", "Bo", head_span=Span(5, 8), tail_span=Span(9, 11))
    later = replace(first, head_span=Span(50, 53), score=0.3)
    back = Relation("Bo", "knows", "Ada")
    assert unique(Items(relations=(later, back, first))).relations == (replace(first, score=0.3), back)


def test_events_with_one_trigger_at_two_places_are_two_and_at_one_place_one() -> None:
    one = Event("attack", "hit", (Argument("Bo", "victim", Span(4, 6)),), Span(0, 3))
    shared = Event("attack", "hit", (Argument("Al", "agent"), Argument("Bo", "victim", Span(4, 6), 0.2)), Span(0, 3))
    other = replace(one, span=Span(30, 33))
    merged = unique(Items(events=(other, one, shared))).events
    assert [event.span for event in merged] == [Span(0, 3), Span(30, 33)]
    assert merged[0].arguments == (Argument("Bo", "victim", Span(4, 6), 0.2), Argument("Al", "agent"))


def test_role_batches_of_an_event_are_joined_by_trigger_and_without_one_where_it_is_clear() -> None:
    first = Items(events=(Event("sale", "sold", (Argument("Al", "seller"),), Span(3, 7)),))
    second = Items(events=(Event("sale", "", (Argument("May", "time"),)),))
    (event,) = merge_chunk(join_untriggered([first, second])).events
    assert (event.trigger, event.arguments) == ("sold", (Argument("Al", "seller"), Argument("May", "time")))
    two = Items(events=(Event("sale", "resold", (), Span(20, 26)),))
    assert len(merge_chunk(join_untriggered([first, two, second])).events) == 3


def test_places_are_moved_with_the_chunk_and_missing_ones_stay_missing() -> None:
    relation = Relation("a", "r", "b", head_span=Span(1, 2))
    event = Event("e", "t", (Argument("x", "y", Span(0, 1)), Argument("z", "y")), Span(2, 3))
    moved = shifted(Items((A,), (relation,), (event,)), 10)
    assert moved.entities[0].span == Span(10, 13)
    assert (moved.relations[0].head_span, moved.relations[0].tail_span) == (Span(11, 12), None)
    assert (moved.events[0].span, moved.events[0].arguments[0].span) == (Span(12, 13), Span(10, 11))


def test_a_majority_needs_more_than_half_and_a_union_one() -> None:
    found = [Items((A,)), Items((A, B)), Items((B,)), Items((A,))]
    assert vote(found, "union").entities == (replace(A, score=pytest.approx(0.375)), B)
    assert vote(found, "majority").entities == (replace(A, score=pytest.approx(0.375)),)


def test_arguments_are_voted_on_by_themselves() -> None:
    sure, unsure = Argument("Al", "agent"), Argument("Bo", "victim")
    event = Event("attack", "hit", (sure, unsure), Span(0, 3))
    found = [Items(events=(event,)), Items(events=(replace(event, arguments=(sure,)),)), Items()]
    assert vote(found, "majority").events == (replace(event, arguments=(sure,)),)


def test_one_span_with_two_types_is_a_conflict_and_both_stay() -> None:
    found = unique(Items((Entity("Ada", "organization", Span(0, 3)), A, B, Entity("x", "a"), Entity("x", "b"))))
    assert len(found.entities) == 5
    assert conflicts(found.entities) == (Conflict("Ada", Span(0, 3), ("organization", "person")),)


SPANS = st.none() | st.builds(lambda start, size: Span(start, start + size), st.integers(0, 9), st.integers(1, 3))
NAMES = st.sampled_from(["a", "b", "c"])
ARGUMENTS = st.lists(st.builds(Argument, NAMES, NAMES, SPANS), max_size=2).map(tuple)
ITEMS = st.builds(
    Items,
    st.lists(st.builds(Entity, NAMES, NAMES, SPANS), max_size=4).map(tuple),
    st.lists(st.builds(Relation, NAMES, NAMES, NAMES, head_span=SPANS), max_size=4).map(tuple),
    st.lists(st.builds(Event, NAMES, NAMES, ARGUMENTS, SPANS), max_size=4).map(tuple),
)


@given(st.lists(ITEMS, max_size=3), st.sampled_from(["first", "all"]))
def test_merging_loses_no_item_and_merging_again_changes_nothing(parts: list[Items], mentions: str) -> None:
    total = sum_items(parts)
    merged = unique(total, mentions)  # type: ignore[arg-type]
    keys = item_keys(total, mentions)  # type: ignore[arg-type]
    assert item_keys(merged, mentions) == keys and len(merged) == len(keys)  # type: ignore[arg-type]
    assert unique(merged, mentions) == merged  # type: ignore[arg-type]


@given(st.lists(ITEMS, min_size=1, max_size=3))
def test_a_majority_is_part_of_the_union(parts: list[Items]) -> None:
    each = [unique(part) for part in parts]
    assert item_keys(vote(each, "majority")) <= item_keys(vote(each, "union")) == item_keys(sum_items(each))
