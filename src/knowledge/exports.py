"""Facts as files that other programs read: N-Triples, Turtle, JSON-LD, GraphML, CSV, JSON lines.

All are written as a stream, so that a file may be larger than memory; GraphML keeps a hash of
each entity. RDF is as `src.knowledge.rdf` has it; GraphML (graphdrawing.org) has entities and values as nodes and facts
as edges, which Gephi and networkx open; CSV (RFC 4180, UTF-8) and JSON lines have one row for each mention.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

from src.errors import UserError
from src.knowledge.facts import Fact, fact_of
from src.knowledge.iris import ENTITY, PREFIXES, Value, iri, is_value
from src.knowledge.rdf import Statement, statements
from src.knowledge.triples import Provenance, Triple

FIELDS = (
    *(
        "head",
        "relation",
        "tail",
        "head_type",
        "tail_type",
        "head_start",
        "head_end",
        "tail_start",
        "tail_end",
        "score",
    ),
    *("document", "source", "sentence"),
)
ESCAPES = str.maketrans(
    {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    | {code: f"\\u{code:04X}" for code in (*range(9), 11, 12, *range(14, 32), 127)}
)
PREFIXED = re.compile(r"[A-Za-z0-9_%]([A-Za-z0-9_%:.-]*[A-Za-z0-9_%])?")  # local names that need no escape in Turtle
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_triples(triples: Iterable[Triple], path: str | Path) -> int:
    """Write triples in the format that the file's ending names, see `ENDINGS`; an earlier file is replaced.

    Returns:
        How many were written.

    Raises:
        UserError: the ending is none of them, or the file can't be written.
    """
    return write_facts(map(fact_of, triples), path)


def write_facts(facts: Iterable[Fact], path: str | Path) -> int:
    """Write facts, as `write_triples` does; where entities were merged, their other names become aliases."""
    file = Path(path).expanduser()
    write = ENDINGS.get(file.suffix.lower())
    if write is None:
        raise UserError(f"{file.name} has no ending that says what to write: use one of {', '.join(ENDINGS)}")
    count = 0

    def counted() -> Iterator[Fact]:
        nonlocal count
        for fact in facts:
            count += 1
            yield fact

    with _replacing(file) as stream:
        write(counted(), stream)
    return count


def write_ntriples(facts: Iterable[Fact], stream: TextIO) -> None:
    """N-Triples: one statement a line."""
    for fact in facts:
        stream.writelines(f"<{s}> <{p}> {_term(o)} .\n" for s, p, o in statements(fact))


def write_turtle(facts: Iterable[Fact], stream: TextIO) -> None:
    """Turtle: the same with prefixes, what is said of one subject together."""
    stream.writelines(f"@prefix {prefix}: <{full}> .\n" for prefix, full in PREFIXES.items())
    for fact in facts:
        stream.write("\n")
        for subject, said in _by_subject(statements(fact)).items():
            stream.write(f"{_short(subject)} {' ; '.join(f'{_short(p)} {_short(o)}' for p, o in said)} .\n")


def write_jsonld(facts: Iterable[Fact], stream: TextIO) -> None:
    """JSON-LD 1.1: a graph of nodes, one a line; a node may come several times."""
    stream.write('{"@context": ' + json.dumps(PREFIXES) + ',\n "@graph": [')
    mark = "\n"
    for fact in facts:
        for subject, said in _by_subject(statements(fact)).items():
            node: dict[str, Any] = {"@id": subject}
            for predicate, value in said:
                node.setdefault(predicate, []).append(_node(value))
            stream.write(mark + json.dumps(node, ensure_ascii=False))
            mark = ",\n"
    stream.write("\n]}\n")


def write_graphml(facts: Iterable[Fact], stream: TextIO) -> None:
    """GraphML: a directed graph; control characters, which XML can't hold, become U+FFFD."""
    stream.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
    for owner, key, type in GRAPHML_KEYS:
        stream.write(f'<key id="{owner[0]}_{key}" for="{owner}" attr.name="{key}" attr.type="{type}"/>\n')
    stream.write('<graph id="knowledge" edgedefault="directed">\n')
    seen: set[int] = set()
    for number, fact in enumerate(facts, 1):
        ends = []
        for name, type, value in (
            (fact.head, fact.head_type, False),
            (fact.tail, fact.tail_type, is_value(fact.tail, fact.tail_type)),
        ):
            id = iri("value:" if value else ENTITY, name, type)
            ends.append(id)
            if hash(id) not in seen:
                seen.add(hash(id))
                data = _data("n", {"label": name, "type": type, "kind": "value" if value else "entity"})
                stream.write(f"<node id={quoteattr(id)}>{data}</node>\n")
        said = _data("e", _edge(fact))
        stream.write(f'<edge id="f{number}" source={quoteattr(ends[0])} target={quoteattr(ends[1])}>{said}</edge>\n')
    stream.write("</graph>\n</graphml>\n")


def write_csv(facts: Iterable[Fact], stream: TextIO) -> None:
    """CSV: a header, then a row for each mention; where entities were merged, names as found."""
    writer = csv.writer(stream)
    writer.writerow(FIELDS)
    for triple in _mentions(facts):
        spans = *(triple.head_span or ("", "")), *(triple.tail_span or ("", ""))
        where = triple.provenance or Provenance()
        score = "" if triple.score is None else repr(float(triple.score))
        ends = (triple.head, triple.relation, triple.tail, triple.head_type, triple.tail_type)
        writer.writerow((*ends, *spans, score, where.document, where.source, where.sentence))


def write_jsonl(facts: Iterable[Fact], stream: TextIO) -> None:
    """JSON lines: a triple for each mention, as `Triple.as_dict` has it."""
    for triple in _mentions(facts):
        stream.write(json.dumps(triple.as_dict(), ensure_ascii=False) + "\n")


ENDINGS: dict[str, Callable[[Iterable[Fact], TextIO], None]] = {
    ".nt": write_ntriples,
    ".ttl": write_turtle,
    ".jsonld": write_jsonld,
    ".graphml": write_graphml,
    ".csv": write_csv,
    ".jsonl": write_jsonl,
}
GRAPHML_KEYS = (
    *(("node", key, "string") for key in ("label", "type", "kind")),
    *(("edge", key, "string") for key in ("label", "documents", "sources", "sentence")),
    ("edge", "weight", "int"),
    ("edge", "score", "double"),
)


@contextmanager
def _replacing(file: Path) -> Iterator[TextIO]:
    """A file that gets its name when it is complete. Raises `UserError` where there can be none."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"{file} can't be written ({error.strerror or error}): give another path") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _mentions(facts: Iterable[Fact]) -> Iterator[Triple]:
    for fact in facts:
        bare = Triple(fact.head, fact.relation, fact.tail, fact.head_type, fact.tail_type)
        yield from fact.mentions or (bare,)


def _term(value: str | Value) -> str:
    if isinstance(value, str):
        return f"<{value}>"
    text = f'"{value.text.translate(ESCAPES)}"'
    return f"{text}^^<{value.datatype}>" if value.datatype else text


def _short(value: str | Value) -> str:
    if isinstance(value, Value):
        text = f'"{value.text.translate(ESCAPES)}"'
        return f"{text}^^{_short(value.datatype)}" if value.datatype else text
    for prefix, full in PREFIXES.items():
        if value.startswith(full) and PREFIXED.fullmatch(local := value.removeprefix(full)):
            return f"{prefix}:{local}"
    return f"<{value}>"


def _node(value: str | Value) -> dict[str, str]:
    if isinstance(value, str):
        return {"@id": value}
    return {"@value": value.text} | ({"@type": value.datatype} if value.datatype else {})


def _by_subject(said: Iterable[Statement]) -> dict[str, list[tuple[str, str | Value]]]:
    subjects: dict[str, list[tuple[str, str | Value]]] = {}
    for subject, predicate, value in said:
        subjects.setdefault(subject, []).append((predicate, value))
    return subjects


def _edge(fact: Fact) -> dict[str, Any]:
    places = [mention.provenance for mention in fact.mentions if mention.provenance]
    scores = [mention.score for mention in fact.mentions if mention.score is not None]
    return {
        "label": fact.relation,
        "documents": "; ".join(dict.fromkeys(place.document for place in places if place.document)),
        "sources": "; ".join(dict.fromkeys(place.source for place in places if place.source)),
        "sentence": next((place.sentence for place in places if place.sentence), ""),
        "weight": max(1, len(fact.mentions)),
        "score": repr(float(max(scores))) if scores else "",
    }


def _data(owner: str, fields: dict[str, Any]) -> str:
    known = ((key, NOT_XML.sub("\ufffd", str(value))) for key, value in fields.items() if value != "")
    return "".join(f'<data key="{owner}_{key}">{escape(value)}</data>' for key, value in known)
