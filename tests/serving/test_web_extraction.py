"""What the extraction tab shows, without a browser."""

import base64
import json
import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.serving.web.extraction_view import MAX_NODES, Edge, Mark, graph, highlighted, layout, view
from src.serving.web.panel import Page
from src.serving.web.tabs.extraction import ExtractionTab
from src.serving.web.texts import texts_of

TEXT = "Marie Curie was born in Warsaw."
RESULT: dict[str, Any] = {
    "task": "spo",
    "documents": [
        {
            "id": "0",
            "entity": [{"entity": "Marie Curie", "entity_type": "person", "start": 0, "end": 11, "score": 0.91}],
            "relation": [
                {"head": "Marie Curie", "relation": "born in", "tail": "Warsaw", "head_type": "person"}
                | {"tail_type": "place", "head_span": [0, 11], "tail_span": [24, 30]}
            ],
            "event": [
                {"event_trigger": "born", "event_type": "birth", "start": 16, "end": 20}
                | {"arguments": [{"argument": "Warsaw", "role": "where", "start": 24, "end": 30}]}
            ],
            "report": {"requests": 2, "statuses": {"exact": 1, "failed": 1}, "truncated": 1},
        }
    ],
}
TEXTS = texts_of("en")


def plain(html: str) -> str:
    """What a reader sees of the text: labels are no part of it."""
    return unescape(re.sub(r"<[^>]*>", "", re.sub(r"<sup.*?</sup>", "", html, flags=re.DOTALL)))


marks = st.lists(
    st.builds(lambda start, length, label: Mark(start, start + length, label), *[st.integers(0, 20)] * 2, st.text()),
    max_size=8,
)


@given(st.text(max_size=20), marks)
def test_the_text_with_marks_is_the_text(text: str, marks: list[Mark]) -> None:
    assert plain(highlighted(text, marks)) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn", "Cs"]), max_size=20), marks)
def test_every_mark_covers_its_place_and_is_closed(text: str, marks: list[Mark]) -> None:
    marks = [Mark(mark.start, mark.end, f"label {number}") for number, mark in enumerate(marks)]
    tree = ElementTree.fromstring(highlighted(text, marks))
    covered: dict[str, str] = {}

    def walk(node: ElementTree.Element, over: tuple[str, ...]) -> None:
        inside = (*over, node.get("title", "")) if node.tag == "mark" else over
        if node.tag != "sup":
            for label in inside:
                covered[label] = covered.get(label, "") + (node.text or "")
        for child in node:
            walk(child, inside)
            for label in inside:
                covered[label] += child.tail or ""

    walk(tree, ())
    shown = {mark.label: text[mark.start : mark.end] for mark in marks if 0 <= mark.start < mark.end <= len(text)}
    assert covered == shown


def test_an_answer_shows_spans_table_picture_and_file() -> None:
    html = view(RESULT, TEXT, TEXTS)
    assert "3 items; answers of the model: 2 (1 × read as it was, 1 × could not be read); cut off" in html
    assert html.count("<tr>") == 4 and "0.91" in html and "Marie Curie → Warsaw" in html
    assert "<svg" in html and "born in" in html and "birth: born" in html
    (data,) = re.findall(r'download="extraction.json" href="data:application/json;base64,([^"]*)"', html)
    assert json.loads(base64.b64decode(data)) == {"text": TEXT, **RESULT}


def test_what_a_model_or_a_visitor_wrote_is_no_html() -> None:
    bad = '<img src=x onerror="alert(1)">'
    document = {
        "entity": [{"entity": bad, "entity_type": bad, "start": 0, "end": len(bad)}],
        "relation": [{"head": bad, "relation": bad, "tail": bad}],
        "report": {"requests": 1, "statuses": {"exact": 1}, "truncated": 0},
    }
    html = view({"documents": [document]}, bad, TEXTS)
    assert "<img" not in html and "&lt;img" in html
    assert not re.search(r'(?:title|href|style)="[^"]*onerror="', html)


def test_nothing_found_is_no_picture_and_no_table() -> None:
    document = {"report": {"requests": 1, "statuses": {"exact": 1}, "truncated": 0}}
    html = view({"documents": [document]}, TEXT, TEXTS)
    assert "<svg" not in html and "<table" not in html and "0 items" in html


def test_a_picture_of_very_many_names_has_those_with_most_relations() -> None:
    edges = [Edge("hub", "has", f"name {number}") for number in range(100)]
    svg = graph(edges, TEXTS)
    assert svg.count('class="node"') == MAX_NODES and f"The {MAX_NODES} names with most relations, of 101" in svg
    assert ">hub<" in svg


@settings(max_examples=30, deadline=None)
@given(st.lists(st.builds(Edge, *[st.sampled_from("abcde")] * 3), min_size=1, max_size=8))
def test_every_name_of_a_picture_is_inside_of_it(edges: list[Edge]) -> None:
    places = layout(edges)
    assert set(places) == {name for edge in edges for name in (edge.head, edge.tail)}
    assert all(0 <= x <= 900 and 0 <= y <= 480 for x, y in places.values())
    ElementTree.fromstring(graph(edges, TEXTS))


@pytest.fixture(scope="module")
def tab() -> ExtractionTab:
    import gradio as gr

    with gr.Blocks():
        return ExtractionTab(Page(TEXTS, "http://127.0.0.1:1"))


def test_a_schema_is_edited_as_yaml(tab: ExtractionTab) -> None:
    assert tab.read("entities: [person, 地点]") == {"entities": ["person", "地点"]}
    assert tab.read(tab.content.value)["name"] == "person_org_place"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("entities: [", "no YAML"),
        ("", "empty"),
        ("person", "empty"),
        ("a: &a [x]\nb: [*a, *a]", "alias"),
        ("a: 2024-01-01", "no YAML"),
        ("!!python/object:os.system {}", "no YAML"),
        ("x" * 70_000, "too long"),
        ("[" * 5000, "too deeply"),
    ],
)
def test_what_is_no_schema_is_said(tab: ExtractionTab, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tab.read(content)
