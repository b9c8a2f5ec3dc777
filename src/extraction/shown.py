"""What was found, for a terminal: the text with its spans in place, tables, and what the doctor says."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from src.extraction.items import Items, Span
from src.extraction.plan import Extraction

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from src.extraction.extractor import Explanation

STYLES = ("bold green", "bold cyan", "bold magenta", "bold yellow", "bold blue", "bold red")


def spans_of(items: Items) -> list[tuple[Span, str]]:
    """Every place that an item names, with a label, in the order of the text; the longer of two that begin together
    comes first."""
    found = [(entity.span, entity.type) for entity in items.entities]
    for relation in items.relations:
        found += [(relation.head_span, relation.head_type or f"{relation.relation}: head")]
        found += [(relation.tail_span, relation.tail_type or f"{relation.relation}: tail")]
    for event in items.events:
        found += [(event.span, event.type), *((a.span, f"{event.type}: {a.role}") for a in event.arguments)]
    unique = {(span, label) for span, label in found if span is not None}
    return sorted(unique, key=lambda each: (each[0].start, -each[0].end, each[1]))


def text_with_spans(text: str, items: Items) -> "Text":
    """The text with ``[span|label]`` in place; a span within another stands inside of it, crossing ones are closed at
    the end of the first."""
    from rich.text import Text

    labels = list(dict.fromkeys(label for _, label in spans_of(items)))
    styles = {label: STYLES[number % len(STYLES)] for number, label in enumerate(labels)}
    shown = Text()
    place = 0
    opened: list[tuple[int, str]] = []  # ends and labels, the innermost last

    def close_until(position: int) -> None:
        nonlocal place
        while opened and opened[-1][0] <= position:
            end, label = opened.pop()
            shown.append(text[place:end], styles[label])
            shown.append(f"|{label}]", "dim")
            place = end

    for span, label in spans_of(items):
        close_until(span.start)
        shown.append(text[place : span.start], styles[opened[-1][1]] if opened else "")
        shown.append("[", "dim")
        place = span.start
        opened.append((min(span.end, opened[-1][0]) if opened else span.end, label))
    close_until(len(text))
    shown.append(text[place:])
    return shown


def items_table(items: Items) -> "Table":
    """One row an item, and one for each argument of an event."""
    from rich.table import Table
    from rich.text import Text

    kinds: tuple[Sequence[Any], ...] = (items.entities, items.relations, items.events)
    scored = any(item.score is not None for kind in kinds for item in kind)
    headers = ("kind", "type", "text", "place", *(["score"] if scored else []))
    table = Table(*headers, box=None, header_style="bold")

    def add(kind: str, type: str, text: str, spans: Iterable[Span | None], score: float | None) -> None:
        places = " ".join("?" if span is None else f"{span.start}-{span.end}" for span in spans)
        cells = (kind, type, text, places, *(["" if score is None else f"{score:.3f}"] if scored else []))
        table.add_row(*map(Text, cells))  # as they are: in a plain string "[/b]" and ":star:" are Rich's markup

    for entity in items.entities:
        add("entity", entity.type, entity.text, [entity.span], entity.score)
    for relation in items.relations:
        spans = [relation.head_span, relation.tail_span]
        add("relation", relation.relation, f"{relation.head} → {relation.tail}", spans, relation.score)
    for event in items.events:
        add("event", event.type, event.trigger or "–", [event.span] if event.trigger else [], event.score)
        for argument in event.arguments:
            add("", f"  {argument.role}", f"  {argument.text}", [argument.span], argument.score)
    return table


def report_line(found: Extraction) -> str:
    """How it went, in a line; chunk by chunk where there are several."""
    read = ", ".join(f"{count} {status}" for status, count in sorted(found.statuses.items())) or "none"
    parts = [f"{len(found.items)} items", f"{found.requests} answers ({read})", f"{found.completion_tokens} tokens"]
    parts += [f"{found.truncated} cut off"] if found.truncated else []
    parts += [f"{count} {note.replace('_', ' ')}" for note, count in sorted(found.notes.items())]
    parts += [f"{len(found.conflicts)} spans with several types"] if found.conflicts else []
    if len(found.chunks) > 1:
        parts.append("new items by chunk: " + " ".join(str(chunk.new) for chunk in found.chunks))
    return "; ".join(parts)


def explanations(found: "Iterable[Explanation]") -> Iterator[str]:
    """What the doctor says of each request, section by section."""
    for each in found:
        head = f"request {each.request.id}: {each.question.task}, characters {each.start}-{each.end}, asks for "
        yield f"══ {head}{', '.join(each.question.names)}"
        tokens = f"{each.prompt_tokens} tokens" if each.prompt_tokens else "as sent"
        yield f"── prompt ({tokens})\n{each.prompt}"
        yield f"── constraint\n{each.constraint.strip() or 'none'}"
        if (reading := each.reading) is not None:
            answer = reading.answer
            yield f"── answer ({answer.completion_tokens} tokens, {answer.finish_reason})\n{answer.text}"
            notes = "".join(f"; {count} {note.replace('_', ' ')}" for note, count in sorted(reading.notes.items()))
            yield f"── read: {reading.parsed.status}{notes}"
            yield from (_item_line(item) for kind in reading.items.as_dict().values() for item in kind)
        yield ""


def _item_line(item: dict[str, Any]) -> str:
    import json

    return json.dumps(item, ensure_ascii=False)
