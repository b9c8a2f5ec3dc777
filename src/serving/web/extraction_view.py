"""What an extraction found, as HTML: the text with its spans, a table of the items, a picture of what is related.

Everything a model or a visitor wrote is escaped. Spans may overlap: the text is cut at every end of one, and each piece
lies in a mark for each span over it, the longest outside.
"""

import base64
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise
from typing import Any
from unicodedata import east_asian_width

from src.serving.web.texts import Texts

MAX_NODES = 60  # of the picture; more could not be read
MAX_LABEL = 28  # columns of a name in the picture; a Chinese character takes two
WIDTH, HEIGHT = 900, 480
HUES = (210, 25, 140, 280, 50, 330, 180, 0, 95, 250)  # far apart from their neighbours


@dataclass(frozen=True)
class Mark:
    """A place in the text and what it is."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Edge:
    """Two names and how they are related."""

    head: str
    label: str
    tail: str


def view(result: Mapping[str, Any], text: str, texts: Texts) -> str:
    """The HTML of an answer of ``POST /extract`` about one text."""
    document = result["documents"][0]
    marks, edges, rows = marks_of(document), edges_of(document), rows_of(document)
    parts = [f'<p class="found">{escape(summary(document, len(rows), texts))}</p>', highlighted(text, marks)]
    if edges:
        parts.append(graph(edges, texts))
    if rows:
        parts.append(table(rows, texts))
    parts.append(download({"text": text, **result}, texts))
    return f'<div class="extraction">{"".join(parts)}</div>'


def summary(document: Mapping[str, Any], count: int, texts: Texts) -> str:
    """How many items there are, and how the model's answers could be read."""
    report = document["report"]
    statuses = ", ".join(f"{number} × {texts(f'status_{status}')}" for status, number in report["statuses"].items())
    line = texts("extraction_found", count=count, answers=report["requests"], statuses=statuses)
    return line + (texts("extraction_truncated", count=report["truncated"]) if report["truncated"] else "")


def marks_of(document: Mapping[str, Any]) -> list[Mark]:
    """All places that items have, each once."""
    marks = [Mark(e["start"], e["end"], e["entity_type"]) for e in document.get("entity", ()) if "start" in e]
    for relation in document.get("relation", ()):
        for end in ("head", "tail"):
            if span := relation.get(f"{end}_span"):
                marks.append(Mark(span[0], span[1], relation.get(f"{end}_type") or relation["relation"]))
    for event in document.get("event", ()):
        if "start" in event:
            marks.append(Mark(event["start"], event["end"], event["event_type"]))
        marks += [Mark(a["start"], a["end"], a["role"]) for a in event["arguments"] if "start" in a]
    return list(dict.fromkeys(marks))


def edges_of(document: Mapping[str, Any]) -> list[Edge]:
    """What is related: the relations, and events with what plays a role in them."""
    edges = [Edge(r["head"], r["relation"], r["tail"]) for r in document.get("relation", ())]
    for event in document.get("event", ()):
        name = f"{event['event_type']}: {event['event_trigger']}" if event["event_trigger"] else event["event_type"]
        edges += [Edge(name, argument["role"], argument["argument"]) for argument in event["arguments"]]
    return list(dict.fromkeys(edges))


def rows_of(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """For each item what it is, what it says, and its score where it has one."""
    rows = [(e["entity_type"], e["entity"], _score(e)) for e in document.get("entity", ())]
    rows += [(r["relation"], f"{r['head']} → {r['tail']}", _score(r)) for r in document.get("relation", ())]
    for event in document.get("event", ()):
        roles = ", ".join(f"{a['role']}: {a['argument']}" for a in event["arguments"])
        said = " · ".join(part for part in (event["event_trigger"], roles) if part)
        rows.append((event["event_type"], said, _score(event)))
    return rows


def highlighted(text: str, marks: Sequence[Mark]) -> str:
    """The text with its marks; each label stands where its span ends."""
    marks = [mark for mark in marks if 0 <= mark.start < mark.end <= len(text)]
    hues = hues_of(marks)
    beginning: dict[int, list[Mark]] = {}
    for mark in marks:
        beginning.setdefault(mark.start, []).append(mark)
    cuts = sorted({0, len(text), *(place for mark in marks for place in (mark.start, mark.end))})
    parts, over = [], list[Mark]()
    for start, end in pairwise(cuts):
        over = [mark for mark in over if mark.end > start] + beginning.get(start, [])
        over.sort(key=lambda mark: (mark.start - mark.end, mark.start))
        opening = "".join(f'<mark style="--hue:{hues[m.label]}" title="{escape(m.label)}">' for m in over)
        labels = "".join(
            f'<sup style="--hue:{hues[m.label]}">{escape(m.label)}</sup>' for m in reversed(over) if m.end == end
        )
        parts.append(f"{opening}{escape(text[start:end])}{'</mark>' * len(over)}{labels}")
    return f'<div class="spans" dir="auto">{"".join(parts)}</div>'


def hues_of(marks: Sequence[Mark]) -> dict[str, int]:
    """A colour for each label, in the order in which they first stand in the text."""
    labels = dict.fromkeys(mark.label for mark in sorted(marks, key=lambda mark: mark.start))
    return {label: HUES[number % len(HUES)] for number, label in enumerate(labels)}


def table(rows: Sequence[tuple[str, str, str]], texts: Texts) -> str:
    """The items; scores only where there are any."""
    columns = 3 if any(score for _, _, score in rows) else 2
    names = [texts(f"column_{name}") for name in ("type", "item", "score")[:columns]]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row[:columns])}</tr>" for row in rows)
    return f'<table class="items"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def graph(edges: Sequence[Edge], texts: Texts) -> str:
    """A picture of what is related, as SVG; of very many names those with most relations."""
    shown = _largest(edges)
    places = layout(shown)
    lines = [_line(head, tail, labels, places) for (head, tail), labels in _joined(shown).items()]
    dots = [_dot(name, *place) for name, place in places.items()]
    names = len({name for edge in edges for name in (edge.head, edge.tail)})
    more = f"<p>{escape(texts('graph_part', shown=len(places), count=names))}</p>" if names > len(places) else ""
    return (
        f'<svg class="graph" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(texts("graph"))}">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="14" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
        f"{''.join(lines)}{''.join(dots)}</svg>{more}"
    )


def layout(edges: Sequence[Edge]) -> dict[str, tuple[float, float]]:
    """Where each name stands in the picture: related ones near each other (Fruchterman and Reingold 1991)."""
    import networkx

    drawn = networkx.Graph([(edge.head, edge.tail) for edge in edges])
    found = networkx.spring_layout(drawn, k=2.2 / max(1, len(drawn)) ** 0.5, iterations=120, seed=1, method="force")
    left, top = (min(place[axis] for place in found.values()) for axis in (0, 1))
    wide, high = (max(place[axis] for place in found.values()) - least or 1 for axis, least in ((0, left), (1, top)))
    margin, room = (110, 44), (WIDTH - 220, HEIGHT - 88)
    return {
        name: (margin[0] + (x - left) / wide * room[0], margin[1] + (y - top) / high * room[1])
        for name, (x, y) in found.items()
    }


def download(result: Mapping[str, Any], texts: Texts) -> str:
    """A link to the whole answer as a file; the data lie in the link."""
    data = base64.b64encode(json.dumps(result, ensure_ascii=False, indent=2).encode("utf-8")).decode("ascii")
    name = escape(texts("download_json"))
    return f'<a class="download" download="extraction.json" href="data:application/json;base64,{data}">{name}</a>'


def _largest(edges: Sequence[Edge]) -> list[Edge]:
    degrees: dict[str, int] = {}
    for edge in edges:
        for name in (edge.head, edge.tail):
            degrees[name] = degrees.get(name, 0) + 1
    kept = set(sorted(degrees, key=lambda name: -degrees[name])[:MAX_NODES])
    return [edge for edge in edges if edge.head in kept and edge.tail in kept]


def _joined(edges: Sequence[Edge]) -> dict[tuple[str, str], list[str]]:
    joined: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        joined.setdefault((edge.head, edge.tail), []).append(edge.label)
    return joined


def _line(head: str, tail: str, labels: Sequence[str], places: Mapping[str, tuple[float, float]]) -> str:
    (x, y), (to_x, to_y) = places[head], places[tail]
    # Nearer to the tail than to the middle, so that what goes back the same way can be read too.
    at_x, at_y = x + 0.55 * (to_x - x), y + 0.55 * (to_y - y) - 4
    label = escape(_short(", ".join(labels)))
    path = f'<line x1="{x:.0f}" y1="{y:.0f}" x2="{to_x:.0f}" y2="{to_y:.0f}" marker-end="url(#arrow)"/>'
    if head == tail:
        path, at_y = f'<circle cx="{x:.0f}" cy="{y - 16:.0f}" r="14" class="loop"/>', y - 34
    return f'<g class="edge">{path}<text x="{at_x:.0f}" y="{at_y:.0f}">{label}</text></g>'


def _dot(name: str, x: float, y: float) -> str:
    label = f'<text x="{x:.0f}" y="{y + 22:.0f}">{escape(_short(name))}</text>'
    return f'<g class="node"><title>{escape(name)}</title><circle cx="{x:.0f}" cy="{y:.0f}" r="7"/>{label}</g>'


def _short(name: str) -> str:
    widths = list(accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in name))
    if not widths or widths[-1] <= MAX_LABEL:
        return name
    return f"{name[: bisect_left(widths, MAX_LABEL)]}…"


def _score(item: Mapping[str, Any]) -> str:
    return f"{item['score']:.2f}" if item.get("score") is not None else ""
