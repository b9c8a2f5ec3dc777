"""Facts as RDF statements and back: the one mapping that exports and SPARQL share.

A fact is one plain triple; its ends have ``rdfs:label`` and, where known, ``rdf:type``. Everything else (document,
source, sentence, offsets, score, names as found) hangs on one ``rdf:Statement`` for each mention: reification, which is
what every RDF reader understands. Terms of ours are below ``urn:knowlm:term:``.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.knowledge.facts import Fact
from src.knowledge.iris import (
    ENTITY,
    RDF,
    RDFS,
    RELATION,
    SKOS,
    STATEMENT,
    TERM,
    TYPE,
    XSD,
    Value,
    iri,
    names_in,
    object_of,
    statement_iri,
    statement_number,
)
from src.knowledge.triples import Provenance, Span, Triple

if TYPE_CHECKING:
    from rdflib import Graph

Statement = tuple[str, str, str | Value]  # subject, predicate, object; a string is an IRI
PLACES = ("headStart", "headEnd", "tailStart", "tailEnd")
SOURCES = ("document", "source", "sentence")
NAMES = ("headName", "tailName", "headType", "tailType")


def statements(fact: Fact) -> Iterator[Statement]:
    """All that RDF says of a fact, its plain triple first."""
    head, relation = iri(ENTITY, fact.head, fact.head_type), iri(RELATION, fact.relation)
    tail = object_of(fact.tail, fact.tail_type)
    yield head, relation, tail
    yield from _entity(head, fact.head, fact.head_type)
    if isinstance(tail, str):
        yield from _entity(tail, fact.tail, fact.tail_type)
    yield relation, f"{RDFS}label", Value(fact.relation)
    for mention in fact.mentions:
        if mention.head != fact.head:
            yield head, f"{SKOS}altLabel", Value(mention.head)
        if mention.tail != fact.tail and isinstance(tail, str):
            yield tail, f"{SKOS}altLabel", Value(mention.tail)
        subject = statement_iri(statement_number(mention))
        yield from _reified(subject, head, relation, tail)
        yield from ((subject, f"{TERM}{key}", value) for key, value in details(mention, fact))


def _entity(entity: str, name: str, type: str) -> Iterator[Statement]:
    yield entity, f"{RDFS}label", Value(name)
    if type:
        yield entity, f"{RDF}type", iri(TYPE, type)


def _reified(subject: str, head: str, relation: str, tail: str | Value) -> Iterator[Statement]:
    yield subject, f"{RDF}type", f"{RDF}Statement"
    yield subject, f"{RDF}subject", head
    yield subject, f"{RDF}predicate", relation
    yield subject, f"{RDF}object", tail


def details(mention: Triple, fact: Fact) -> Iterator[tuple[str, Value]]:
    """What a statement says besides its triple: terms of ours and their values."""
    where = mention.provenance or Provenance()
    for key in SOURCES:
        if text := getattr(where, key):
            yield key, Value(text)
    for end, span in (("head", mention.head_span), ("tail", mention.tail_span)):
        if span is not None:
            yield f"{end}Start", Value(str(span.start), f"{XSD}integer")
            yield f"{end}End", Value(str(span.end), f"{XSD}integer")
    if mention.score is not None:
        yield "score", Value(repr(float(mention.score)), f"{XSD}double")
    is_literal = isinstance(object_of(fact.tail, fact.tail_type), Value)
    for key, found, said in (
        ("headName", mention.head, fact.head),
        ("tailName", mention.tail, fact.tail),
        ("headType", mention.head_type, fact.head_type),
        ("tailType", mention.tail_type, "" if is_literal else fact.tail_type),
    ):
        if found != said:
            yield key, Value(found)


def triples_of(graph: "Graph") -> Iterator[Triple]:
    """The triples of an RDF graph: one for each reified statement, and one for each plain triple that has none.

    Ours come back as they were. Of others' graphs, an entity's name is its ``rdfs:label`` or the end of its IRI, and
    what connects two resources, or a resource and a literal, is a relation; labels, types and aliases are none.
    """
    from rdflib import RDF as RDF_TERMS
    from rdflib import URIRef

    ends: dict[Any, dict[Any, Any]] = defaultdict(dict)
    reified = set()
    for node in graph.subjects(RDF_TERMS.type, RDF_TERMS.Statement):
        ends[node] = dict(graph.predicate_objects(node))
        wanted = (RDF_TERMS.subject, RDF_TERMS.predicate, RDF_TERMS.object)
        if all(each in ends[node] for each in wanted):
            triple = tuple(ends[node][each] for each in wanted)
            reified.add(triple)
            said = {str(key).removeprefix(TERM): value for key, value in ends[node].items()}
            try:
                yield _mention(_plain(graph, triple), said)
            except ValueError as error:
                raise UserError(f"the statement {node} has an offset or a score that is no number: {error}") from error
    described = {URIRef(f"{RDFS}label"), URIRef(f"{SKOS}altLabel"), RDF_TERMS.type}
    for triple in graph:
        if triple not in reified and triple[1] not in described and triple[0] not in ends:
            yield _plain(graph, triple)


def _plain(graph: "Graph", triple: tuple[Any, Any, Any]) -> Triple:
    from rdflib import Literal

    head, head_type = _named(graph, triple[0])
    relation, _ = _named(graph, triple[1])
    tail, tail_type = (str(triple[2]), "") if isinstance(triple[2], Literal) else _named(graph, triple[2])
    return Triple(head, relation, tail, head_type, tail_type)


def _named(graph: "Graph", node: Any) -> tuple[str, str]:
    """Name and type of a node."""
    from rdflib import RDF as RDF_TERMS
    from rdflib import RDFS as RDFS_TERMS

    text = str(node)
    if text.startswith((ENTITY, RELATION, TYPE, STATEMENT)):
        return names_in(text)
    name = graph.value(node, RDFS_TERMS.label, any=True)
    type = graph.value(node, RDF_TERMS.type, any=True)
    return str(name) if name is not None else _end(text), "" if type is None else _named(graph, type)[0]


def _end(iri: str) -> str:
    from urllib.parse import unquote

    return unquote(iri.rstrip("/#").replace("#", "/").rsplit("/", 1)[-1]) or iri


def _mention(plain: Triple, said: dict[str, Any]) -> Triple:
    text = {key: str(said[key]) for key in (*SOURCES, *NAMES) if key in said}
    start, end, tail_start, tail_end = (int(said[key]) if key in said else None for key in PLACES)
    provenance = Provenance(*(text.get(key, "") for key in SOURCES))
    return Triple(
        text.get("headName", plain.head),
        plain.relation,
        text.get("tailName", plain.tail),
        text.get("headType", plain.head_type),
        text.get("tailType", plain.tail_type),
        None if start is None or end is None else Span(start, end),
        None if tail_start is None or tail_end is None else Span(tail_start, tail_end),
        float(said["score"]) if "score" in said else None,
        None if provenance == Provenance() else provenance,
    )
