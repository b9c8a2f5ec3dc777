"""Triples out of files: what extraction wrote, our own exports, and the RDF of others.

JSON lines hold triples (head, relation, tail, …) or extraction's records, whose ``relation`` is a list of them: a
record's ``id`` then is the document, its ``source`` says what found them, and the sentence is cut out of its ``text``
around their offsets. CSV has a header with at least head, relation
and tail. RDF (.nt, .ttl, .jsonld, .rdf, .xml) needs rdflib, which reads a file whole.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.knowledge.triples import Provenance, Span, Triple

SENTENCE_START = re.compile(r".*(?:[。！？!?\n]|\.\s)", re.DOTALL)  # greedy: up to the last end before
SENTENCE_END = re.compile(r"[。！？!?\n]|\.(?=\s|$)")
HALF_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_FIELD = 1 << 28  # characters of one field of a CSV file
OfRecord = Callable[[Mapping[str, Any]], Iterator[Triple]]
RDF_FORMATS = {".nt": "nt", ".ttl": "turtle", ".jsonld": "json-ld", ".rdf": "xml", ".xml": "xml"}


def read_triples(path: str | Path, of_record: OfRecord | None = None) -> Iterator[Triple]:
    """The triples of a file, whose format its ending names.

    Args:
        of_record: reads a record of extraction in place of `relations_of`, which takes its relations alone.

    Raises:
        UserError: with file and line.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {file}: give one that holds triples")
    json_lines = partial(_jsonl, of_record=of_record or relations_of)
    readers: dict[str, Callable[[Path], Iterator[Triple]]] = {".jsonl": json_lines, ".csv": _csv}
    readers |= dict.fromkeys(RDF_FORMATS, _rdf)
    if (read := readers.get(file.suffix.lower())) is None:
        raise UserError(f"{file.name} has no ending that says what it holds: use one of {', '.join(readers)}")
    return _decoded(file, read(file))


def _decoded(file: Path, triples: Iterator[Triple]) -> Iterator[Triple]:
    try:
        yield from triples
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason}): convert it, with iconv for instance") from error


def triple_from(fields: Mapping[str, Any], provenance: Provenance | None = None) -> Triple:
    """The triple of a JSON object in the form of `Triple.as_dict`. Raises `UserError`."""
    try:
        own = fields.get("provenance")
        return Triple(
            _text(fields, "head"),
            _text(fields, "relation"),
            _text(fields, "tail"),
            str(fields.get("head_type") or ""),
            str(fields.get("tail_type") or ""),
            _span(fields, "head_span"),
            _span(fields, "tail_span"),
            None if fields.get("score") is None else float(fields["score"]),
            Provenance(**{key: str(value) for key, value in dict(own).items()}) if own else provenance,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        wanted = "head, relation, tail and, where known, head_type, tail_type, head_span, tail_span, score, provenance"
        raise UserError(
            f"{json.dumps(fields, ensure_ascii=False)[:200]} is no triple ({error!r}): give {wanted}"
        ) from error


def _span(fields: Mapping[str, Any], key: str) -> Span | None:
    return Span(*map(int, fields[key])) if fields.get(key) else None


def _checked(triple: Triple) -> Triple:
    """The triple, if its numbers are such as can be stored and written. Raises `UserError`."""
    for span in (triple.head_span, triple.tail_span):
        if span is not None and not 0 <= span.start <= span.end < 1 << 63:
            raise UserError(f"a span of '{triple.head}' or '{triple.tail}' is {list(span)}: give [start, end]")
    if triple.score is not None and not math.isfinite(triple.score):
        raise UserError(f"the score of '{triple.head}' is {triple.score}: give a number, or leave it out")
    return triple


def _text(fields: Mapping[str, Any], key: str) -> str:
    if not isinstance(text := fields[key], str) or not text:
        raise ValueError(f"{key} is {text!r}")
    return text


def _jsonl(file: Path, of_record: OfRecord) -> Iterator[Triple]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if "\\u" in line and HALF_SURROGATE.search(json.dumps(record, ensure_ascii=False)):
                    raise UserError("it has half of a surrogate pair, which is no character: mend the program before")
                if not isinstance(record, dict):
                    raise UserError(f"{line.strip()[:100]} is no JSON object")
                yield from map(_checked, (triple_from(record),) if "head" in record else of_record(record))
            except (UserError, ValueError, RecursionError) as error:
                raise UserError(f"{file}, line {number}: {error}") from error


def relations_of(record: Mapping[str, Any]) -> Iterator[Triple]:
    """The relations of a record of extraction. Raises `UserError`."""
    where = Provenance(str(record.get("id") or ""), str(record.get("source") or record.get("model") or ""))
    provenance = None if where == Provenance() else where
    for entry in record.get("relation") or ():
        if not isinstance(entry, dict):
            raise UserError(f"a relation is {entry!r}: it must be an object with head, relation and tail")
        found = triple_from(entry, provenance)
        yield _with_sentence(found, record.get("text")) if found.provenance == provenance else found


def _with_sentence(triple: Triple, text: Any) -> Triple:
    spans = [span for span in (triple.head_span, triple.tail_span) if span is not None]
    if not spans or not isinstance(text, str):
        return triple
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    before, after = SENTENCE_START.search(text[:start]), SENTENCE_END.search(text, end)
    passage = text[before.end() if before else 0 : after.end() if after else len(text)].strip()
    return replace(triple, provenance=replace(triple.provenance or Provenance(), sentence=passage))


def _csv(file: Path) -> Iterator[Triple]:
    csv.field_size_limit(MAX_FIELD)  # a sentence may be longer than the 128 KB that are usual
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        if missing := {"head", "relation", "tail"}.difference(rows.fieldnames or ()):
            raise UserError(f"{file} has no column {', '.join(sorted(missing))}: its first line must name the columns")
        try:
            for row in rows:
                yield _checked(_of_row(row))
        except (UserError, csv.Error) as error:
            raise UserError(f"{file}, line {rows.line_num}: {error}") from error


def _of_row(row: Mapping[str, str]) -> Triple:
    fields: dict[str, Any] = {key: row.get(key) for key in ("head", "relation", "tail", "head_type", "tail_type")}
    for end in ("head", "tail"):
        if row.get(f"{end}_start") and row.get(f"{end}_end"):
            fields[f"{end}_span"] = [row[f"{end}_start"], row[f"{end}_end"]]
    where = Provenance(*(row.get(key) or "" for key in ("document", "source", "sentence")))
    return triple_from(fields | {"score": row.get("score") or None}, None if where == Provenance() else where)


def _rdf(file: Path) -> Iterator[Triple]:
    try:
        from rdflib import Graph
    except ImportError as error:
        raise UserError("RDF needs the package rdflib: pip install 'knowlm-lightning[knowledge]'") from error
    from src.knowledge.rdf import triples_of

    graph = Graph()
    try:
        if file.suffix.lower() == ".jsonld":
            _check_contexts(json.loads(file.read_bytes()))
        graph.parse(file, format=RDF_FORMATS[file.suffix.lower()])
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # each of rdflib's parsers raises its own
        raise UserError(f"{file} can't be read as {RDF_FORMATS[file.suffix.lower()]}: {error}") from error
    return triples_of(graph)


def _check_contexts(document: Any) -> None:
    """Refuse JSON-LD whose context is an address, which rdflib would open, in the network or here."""
    level = [document]
    while level := [entry for entry in level if isinstance(entry, (dict, list))]:
        for entry in level:
            if not isinstance(entry, dict):
                continue
            context = entry.get("@context")
            contexts = [*(context if isinstance(context, list) else [context]), entry.get("@import")]
            if address := next((each for each in contexts if isinstance(each, str)), None):
                raise UserError(f"its context is at {address}, and nothing is fetched: write the context into the file")
        level = [inner for entry in level for inner in (entry.values() if isinstance(entry, dict) else entry)]
