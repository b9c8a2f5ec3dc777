"""What a terminal shows of a text and its items."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.extraction.items import Argument, Entity, Event, Items, Relation, Sample, Span
from src.extraction.plan import ChunkCount, Extraction
from src.extraction.schema import Task
from src.extraction.shown import items_table, report_line, text_with_spans


@pytest.mark.parametrize(
    ("spans", "shown"),
    [
        ([], "Ada Lovelace met"),
        ([(0, 12, "p")], "[Ada Lovelace|p] met"),
        ([(0, 3, "a"), (0, 12, "p")], "[[Ada|a] Lovelace|p] met"),
        ([(4, 12, "b"), (0, 12, "p")], "[Ada [Lovelace|b]|p] met"),
        ([(0, 12, "p"), (4, 16, "x")], "[Ada [Lovelace|x]|p] met"),
        ([(0, 3, "a"), (0, 3, "b")], "[[Ada|b]|a] Lovelace met"),
    ],
)
def test_spans_stand_in_place_nested_where_they_are(spans: list[tuple[int, int, str]], shown: str) -> None:
    text = "Ada Lovelace met"
    items = Items(tuple(Entity(text[start:end], kind, Span(start, end)) for start, end, kind in spans))
    assert text_with_spans(text, items).plain == shown


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from("pq"))))
def test_marking_spans_changes_no_letter_of_the_text(spans: list[tuple[int, int, str]]) -> None:
    text = "abcdefghij"
    items = Items(tuple(Entity("", kind, Span(start, min(10, start + size))) for start, size, kind in spans))
    shown = text_with_spans(text, items).plain
    assert "".join(letter for letter in shown if letter in text) == text
    assert shown.count("[") == shown.count("]") == len(set(items.entities))


def test_relations_and_events_are_marked_and_listed() -> None:
    items = Items(
        (Entity("Al", "person", Span(0, 2)),),
        (Relation("Al", "owns", "boat", head_span=Span(0, 2), tail_span=Span(10, 14), score=0.25),),
        (Event("sale", "sold", (Argument("boat", "thing", Span(10, 14)),), Span(3, 7)),),
    )
    shown = text_with_spans("Al sold a boat", items).plain
    assert shown == "[[Al|person]|owns: head] [sold|sale] a [[boat|sale: thing]|owns: tail]"
    table = items_table(items)
    assert table.row_count == 4 and [column.header for column in table.columns][-1] == "score"


def test_the_report_tells_of_chunks_and_of_what_was_cut_off() -> None:
    chunks = (ChunkCount(0, 10, 3, 3), ChunkCount(8, 20, 2, 1))
    line = report_line(Extraction(Sample("d", "x"), Task.NER, 2, truncated=1, chunks=chunks))
    assert "1 cut off" in line and "new items by chunk: 3 1" in line


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    console = Console(width=80, record=True)
    console.print(items_table(Items((Entity("[/b] :star:", "t[bold]", Span(0, 11)),))))
    assert "[/b] :star:" in (shown := console.export_text()) and "t[bold]" in shown
