"""What was found, as files: the ending says which form.

- ``.jsonl``: a document a line (`src.extraction.plan.Extraction.as_dict`), appended as they come. Run again it goes on
  with the documents that are missing. Beside it lies ``NAME.jsonl.settings.json``, so that it is not continued with
  other settings by mistake.
- ``.csv``: an item a row: entities, relations, events, and each argument of an event.
- ``.nt``, ``.ttl``, ``.jsonld``, ``.graphml``: a graph (`src.knowledge.exports`): relations as they are, entities as
  ``mentioned in`` their document, and each event as a node with its roles.

What is done stays when the work is interrupted.
"""

import csv
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.chunks import sentences
from src.extraction.documents import Document
from src.extraction.items import Event, Items, Span
from src.extraction.plan import Extraction
from src.knowledge.exports import write_triples
from src.knowledge.triples import Provenance, Triple

GRAPHS = (".nt", ".ttl", ".jsonld", ".graphml")
ENDINGS = (".jsonl", ".csv", *GRAPHS)
MENTIONED = "mentioned in"
DOCUMENT = "document"
COLUMNS = (
    *("document", "kind", "type", "text", "start", "end"),
    *("head_type", "head", "head_start", "head_end", "tail_type", "tail", "tail_start", "tail_end"),
    *("role", "score"),
)


@dataclass
class Output:
    """A file to write to, and the ids of the documents that it has already."""

    path: Path
    settings: Mapping[str, Any]
    present: set[str] = field(default_factory=set)

    @property
    def ending(self) -> str:
        return self.path.suffix.lower()

    def missing(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that the file does not have. Raises `UserError` for two of the same id."""
        seen: set[str] = set()
        for document in documents:
            if document.id in seen:
                raise UserError(
                    f"two documents have the id '{document.id}' (the second in {document.source}): give each its own, "
                    "or name another field with id_field="
                )
            seen.add(document.id)
            if document.id not in self.present:
                yield document

    def write(self, found: Iterable[Extraction], done: Callable[[Extraction], None]) -> None:
        """Write each extraction as it comes, calling ``done`` after each."""
        writers = {".jsonl": self._lines, ".csv": self._rows}
        writers.get(self.ending, self._graph)(found, done)

    def _lines(self, found: Iterable[Extraction], done: Callable[[Extraction], None]) -> None:
        text = json.dumps(dict(self.settings), ensure_ascii=False, indent=1)
        settings_file(self.path).write_text(text + "\n", encoding="utf-8")
        with self.path.open("a", encoding="utf-8") as stream:
            for extraction in found:
                stream.write(json.dumps(extraction.as_dict(), ensure_ascii=False) + "\n")
                stream.flush()
                done(extraction)

    def _rows(self, found: Iterable[Extraction], done: Callable[[Extraction], None]) -> None:
        with self.path.open("x", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            for extraction in found:
                writer.writerows(rows(extraction.sample.id, extraction.items))
                stream.flush()
                done(extraction)

    def _graph(self, found: Iterable[Extraction], done: Callable[[Extraction], None]) -> None:
        stopped: BaseException | None = None

        def triples() -> Iterator[Triple]:
            nonlocal stopped
            try:
                for extraction in found:
                    yield from triples_of(extraction, str(self.settings.get("model", "")))
                    done(extraction)
            except BaseException as error:  # raised again when the file is whole
                stopped = error

        write_triples(triples(), self.path)
        if stopped is not None:
            raise stopped


def open_output(path: str | Path, settings: Mapping[str, Any]) -> Output:
    """Look at what is there before any work is done.

    Args:
        settings: all that the results depend on, as JSON data; ``model`` names what found them.

    Raises:
        UserError: the ending is none of `ENDINGS`; the file is there and can't be continued, or has other settings.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"output={path} has no ending that says what to write: use one of {', '.join(ENDINGS)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={path} can't be written ({error.strerror}): give another place") from error
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"output={path} can't be written (its folder is read-only): give another place")
    if not file.exists() or (file.suffix.lower() == ".jsonl" and file.is_file() and file.stat().st_size == 0):
        return Output(file, settings)  # an empty one is of a run that ended before its first document
    if file.suffix.lower() != ".jsonl":
        raise UserError(f"output={path} is there already: give another name, or a .jsonl file, which can be continued")
    _check_settings(file, settings)
    return Output(file, settings, _present(file))


def settings_file(path: Path) -> Path:
    """Where the settings of a .jsonl output are kept."""
    return path.with_name(f"{path.name}.settings.json")


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    beside = settings_file(file)
    if not beside.is_file():
        raise UserError(f"output={file} is there already, without {beside.name} to say what made it: give another name")
    try:
        before = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside} is not JSON ({error}): give another output=") from error
    now = json.loads(json.dumps(dict(settings)))
    if changed := [key for key in before | now if before.get(key) != now.get(key)]:
        key = changed[0]
        shown = [json.dumps(each.get(key), ensure_ascii=False)[:60] for each in (before, now)]
        raise UserError(
            f"output={file} was made with another {key} ({shown[0]}, and now {shown[1]}): give the same settings to go "
            "on with it, or another output="
        )


def _present(file: Path) -> set[str]:
    """Ids of the documents in a .jsonl file; a last line that a killed run left unfinished is taken away."""
    ids: set[str] = set()
    whole = 0
    with file.open("r+b") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                ids.add(str(json.loads(line)["id"]))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}:{number} is no record of an extraction: give another output=") from error
        stream.truncate(whole)
    return ids


def rows(document: str, items: Items) -> Iterator[dict[str, Any]]:
    """The rows of a .csv file, by `COLUMNS`."""
    for entity in items.entities:
        row = _row(document, "entity", entity.type, entity.text, entity.span)
        yield row | {"score": entity.score}
    for relation in items.relations:
        row = _row(document, "relation", relation.relation)
        for end in ("head", "tail"):
            span = getattr(relation, f"{end}_span")
            row |= {end: getattr(relation, end), f"{end}_type": getattr(relation, f"{end}_type")}
            row |= {f"{end}_start": span and span.start, f"{end}_end": span and span.end}
        yield row | {"score": relation.score}
    for event in items.events:
        yield _row(document, "event", event.type, event.trigger, event.span) | {"score": event.score}
        for argument in event.arguments:
            row = _row(document, "argument", event.type, argument.text, argument.span)
            trigger = event.span or (None, None)
            row |= {"head": event.trigger, "head_start": trigger[0], "head_end": trigger[1]}
            yield row | {"role": argument.role, "score": argument.score}


def _row(document: str, kind: str, type: str, text: str = "", span: Span | None = None) -> dict[str, Any]:
    start, end = span or (None, None)
    return {"document": document, "kind": kind, "type": type, "text": text, "start": start, "end": end}


def triples_of(extraction: Extraction, source: str = "") -> Iterator[Triple]:
    """Everything found in a document as triples, with the sentence that each was read in.

    Entities: ``(entity, mentioned in, document)``. Events: ``(trigger (document:start), role, argument)`` with the
    event's type as that of the head, because two attacks are two.

    Args:
        source: what found them.
    """
    sample = extraction.sample
    spans = sentences(sample.text) if len(sample.items) else []
    starts = [span.start for span in spans]

    def where(span: Span | None) -> Provenance:
        place = spans[bisect_right(starts, span.start) - 1] if span else None
        return Provenance(sample.id, source, sample.text[place.start : place.end].strip() if place else "")

    for relation in sample.items.relations:
        yield replace(relation, provenance=where(relation.head_span))
    for entity in sample.items.entities:
        ends = entity.text, MENTIONED, sample.id, entity.type, DOCUMENT
        yield Triple(*ends, entity.span, None, entity.score, where(entity.span))
    for event in sample.items.events:
        name = _event_name(sample.id, event)
        yield Triple(name, MENTIONED, sample.id, event.type, DOCUMENT, event.span, None, event.score, where(event.span))
        for argument in event.arguments:
            ends = name, argument.role, argument.text, event.type, ""
            yield Triple(*ends, event.span, argument.span, argument.score, where(argument.span or event.span))


def _event_name(document: str, event: Event) -> str:
    first = event.span or next((argument.span for argument in event.arguments if argument.span), None)
    return f"{event.trigger or event.type} ({document}{f':{first.start}' if first else ''})"
