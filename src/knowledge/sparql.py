"""SPARQL over a knowledge store: rdflib's query engine, with the store's tables and their indexes behind it.

The graph is that of the exports (`src.knowledge.rdf`), without anything being copied: each triple pattern of a query is
one look-up. What was found without provenance has no statement here. Prefixes e, t, r, s, k, rdf, rdfs, skos, xsd are
known; names may be written as they are, ``r:首都``, or percent-encoded. Merged entities are one, under the name that
stands for them. Reading only, and only here: SERVICE and FROM, which rdflib would fetch from the network, are refused.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.knowledge.iris import (
    ENTITY,
    PREFIXES,
    RDF,
    RDFS,
    RELATION,
    SKOS,
    STATEMENT,
    TERM,
    TYPE,
    Value,
    iri,
    is_value,
    names_in,
    object_of,
    statement_iri,
    statement_number_in,
)
from src.knowledge.rdf import NAMES, PLACES, SOURCES, statements

if TYPE_CHECKING:
    from rdflib import Graph
    from rdflib.query import Result

    from src.knowledge.store import KnowledgeStore

Pattern = tuple[Any, Any, Any]
Values = tuple[Any, ...]

ELSEWHERE = {"ServiceGraphPattern": "SERVICE", "DatasetClause": "FROM", "GraphGraphPattern": "GRAPH"}
LINKS = tuple(f"{RDF}{end}" for end in ("subject", "predicate", "object"))
DETAILS = tuple(f"{TERM}{key}" for key in (*SOURCES, *PLACES, "score", *NAMES))


def query(store: "KnowledgeStore", text: str) -> "Result":
    """The answer to a SELECT, ASK, CONSTRUCT or DESCRIBE query.

    Raises:
        UserError: it is no such query, it asks other graphs than the store, or rdflib is not installed.
    """
    graph = open_graph(store)
    from pyparsing import ParseException
    from rdflib.plugins.sparql.algebra import translateQuery, traverse
    from rdflib.plugins.sparql.parser import parseQuery

    try:
        read = traverse(parseQuery(text), visitPre=_only_here)
        parsed = translateQuery(read, initNs=PREFIXES)
    except UserError:
        raise
    except ParseException as error:
        raise UserError(
            f"the query can't be read at line {error.lineno}, column {error.column}: {error.msg}"
        ) from error
    except Exception as error:  # rdflib has no type of its own for unknown prefixes and the like
        raise UserError(f"the query can't be read: {error}") from error
    parsed.algebra = traverse(parsed.algebra, visitPost=_encoded)
    return graph.query(parsed)


def open_graph(store: "KnowledgeStore") -> "Graph":
    """The store as an ``rdflib.Graph``. Raises `UserError` where rdflib is not installed."""
    try:
        from rdflib import Graph
        from rdflib.store import Store
    except ImportError as error:
        raise UserError("SPARQL needs the package rdflib: pip install 'knowlm-lightning[knowledge]'") from error

    class Tables(Store):
        """What rdflib asks of a store, of which patterns of triples are all that matters here."""

        def triples(self, pattern: Pattern, context: Any = None) -> Iterator[tuple[Pattern, Iterator[Any]]]:  # type: ignore[override]
            return ((found, iter(())) for found in View(store).matching(*pattern))

        def __len__(self, context: Any = None) -> int:
            return sum(1 for _ in View(store).matching(None, None, None))

        def add(self, *_: Any, **__: Any) -> None:
            raise UserError("SPARQL only reads a knowledge store: add triples with KnowledgeStore.add")

        remove = add

        def namespaces(self) -> Iterator[Any]:
            return iter(())

        def bind(self, *_: Any, **__: Any) -> None: ...

    return Graph(store=Tables(), bind_namespaces="none")


def _only_here(node: Any) -> None:
    """Refuse what asks other graphs than the store, in any place of a query."""
    if word := ELSEWHERE.get(getattr(node, "name", None) or ""):
        raise UserError(f"the query has {word}, and only the store itself is asked: leave {word} out")


def _encoded(node: Any) -> Any:
    """An IRI of ours whose names were written as they are; None leaves a node as it is."""
    from rdflib import URIRef

    kind = next((kind for kind in (ENTITY, TYPE, RELATION) if str(node).startswith(kind)), None)
    if not isinstance(node, URIRef) or kind is None:
        return None
    name, type = names_in(node)
    return URIRef(iri(kind, name, type))


def _term(value: str | Value) -> Any:
    from rdflib import Literal, URIRef

    if isinstance(value, str):
        return URIRef(value)
    return Literal(value.text, datatype=URIRef(value.datatype) if value.datatype else None)


class View:
    """The store as a set of RDF triples; terms are rdflib's, None is any."""

    def __init__(self, store: "KnowledgeStore"):
        self.store = store
        self._ask = store.tables.reader.execute

    def matching(self, subject: Any, predicate: Any, value: Any) -> Iterator[Pattern]:
        """All triples that fit a pattern, each once."""
        readers: dict[str, Callable[[Any, Any], Iterator[tuple[str, str | Value]]]] = {
            f"{RDFS}label": self._labels,
            f"{SKOS}altLabel": self._aliases,
            f"{RDF}type": self._types,
        }
        for term in (*LINKS, *DETAILS):
            readers[term] = partial(self._statements, term)
        for term, read in readers.items():
            if predicate is None or str(predicate) == term:
                for found in read(subject, value):
                    triple = (_term(found[0]), _term(term), _term(found[1]))
                    if (subject is None or triple[0] == subject) and (value is None or triple[2] == value):
                        yield triple
        if predicate is None or str(predicate).startswith(RELATION):
            yield from self._facts(subject, predicate, value)

    def _labels(self, subject: Any, value: Any) -> Iterator[tuple[str, str | Value]]:
        if subject is None or subject.startswith(ENTITY):
            condition, values = self._named(subject, "n.text = ?", value)
            yield from ((iri(ENTITY, *name), Value(name[0])) for name in self._entities(condition, values))
        if subject is None or subject.startswith(RELATION):
            name = names_in(subject)[0] if subject is not None else value
            condition, values = ("", ()) if name is None else ("WHERE text = ?", (str(name),))
            used = "id IN (SELECT relation FROM fact)"
            condition = f"{condition} AND {used}" if condition else f"WHERE {used}"
            for (text,) in self._ask(f"SELECT text FROM relation {condition}", values):
                yield iri(RELATION, text), Value(text)

    def _types(self, subject: Any, value: Any) -> Iterator[tuple[str, str | Value]]:
        is_statement = f"{RDF}Statement"
        if (subject is None or subject.startswith(ENTITY)) and str(value) != is_statement:
            type = None if value is None else names_in(value)[0] if value.startswith(TYPE) else ""
            condition, values = self._named(subject, "n.type = ?", type)
            for name in self._entities(f"{condition} AND n.type <> ''", values):
                yield iri(ENTITY, *name), iri(TYPE, name[1])
        if (subject is None or subject.startswith(STATEMENT)) and (value is None or str(value) == is_statement):
            condition, values = _numbered(subject)
            for (number,) in self._ask(f"SELECT m.number FROM mention m WHERE {condition}", values):
                yield statement_iri(number), is_statement

    def _aliases(self, subject: Any, value: Any) -> Iterator[tuple[str, str | Value]]:
        condition, values = self._named(subject, "a.text = ?", value)
        rows = self._ask(
            "SELECT DISTINCT n.text, n.type, a.text FROM name a JOIN name n ON n.id = a.entity "
            f"WHERE a.entity <> a.id AND a.text <> n.text AND {condition}",
            values,
        )
        return ((iri(ENTITY, text, type), Value(alias)) for text, type, alias in rows)

    def _statements(self, term: str, subject: Any, value: Any) -> Iterator[tuple[str, str | Value]]:
        if subject is not None and not subject.startswith(STATEMENT):
            return
        condition, values = _numbered(subject)
        if subject is None and value is not None:
            condition, values = self._said(term, value)
        for fact in self.store.mentioned(condition, values):
            for about, predicate, said in statements(fact):
                if predicate == term and about.startswith(STATEMENT):
                    yield about, said

    def _said(self, term: str, value: Any) -> tuple[str, Values]:
        """A condition that finds statements by what they say."""
        if term in (f"{RDF}subject", f"{RDF}object"):
            end = "f.head" if term == f"{RDF}subject" else "f.tail"
            return _among(f"{end} IN (SELECT id FROM name WHERE entity IN ({{}}))", self._entity_ids(value))
        if term == f"{RDF}predicate":
            return "r.text = ?", (names_in(value)[0],)
        key = term.removeprefix(TERM)
        return (f"m.{key} = ?", (str(value),)) if key in SOURCES else ("true", ())

    def _facts(self, subject: Any, predicate: Any, value: Any) -> Iterator[Pattern]:
        if subject is not None and not subject.startswith(ENTITY):
            return
        heads = None if subject is None else self._entity_ids(subject)
        tails = None if value is None else self._entity_ids(value)
        if heads == [] or tails == []:
            return
        relation = None if predicate is None else names_in(predicate)[0]
        before: Any = None
        literals: set[Value] = set()
        for fact in self.store.facts_between(heads, relation, tails, mentions=False):
            head, said = _term(iri(ENTITY, fact.head, fact.head_type)), _term(iri(RELATION, fact.relation))
            tail = object_of(fact.tail, fact.tail_type)
            if (head, said) != before:
                before, literals = (head, said), set()
            if isinstance(tail, Value):  # 5 of type Number and 5 of no type are one literal
                if tail in literals:
                    continue
                literals.add(tail)
            if value is None or _term(tail) == value:
                yield head, said, _term(tail)

    def _entities(self, condition: str, values: Values) -> Iterator[tuple[str, str]]:
        """Names and types of entities, without values that are no head of a fact."""
        for id, text, type in self._ask(
            f"SELECT n.id, n.text, n.type FROM name n WHERE n.entity = n.id AND {condition}", values
        ):
            heads = "SELECT 1 FROM fact WHERE head IN (SELECT id FROM name WHERE entity = ?) LIMIT 1"
            if not is_value(text, type) or self._ask(heads, (id,)).fetchone():
                yield text, type

    def _named(self, subject: Any, condition: str, value: Any) -> tuple[str, Values]:
        """A condition on name n: the entity of an IRI, or what is said of it."""
        if subject is not None:
            return _among("n.id IN ({})", self._entity_ids(subject))
        return ("true", ()) if value is None else (condition, (str(value),))

    def _entity_ids(self, term: Any) -> list[int]:
        """The entities that an IRI or a literal can be."""
        from rdflib import Literal

        if isinstance(term, Literal):
            rows = self._ask("SELECT entity FROM name WHERE text = ?", (str(term),))
        elif term.startswith(ENTITY):
            rows = self._ask("SELECT entity FROM name WHERE text = ? AND type = ?", names_in(term))
        else:
            return []
        return sorted({row[0] for row in rows})


def _among(condition: str, ids: list[int]) -> tuple[str, Values]:
    return condition.format(", ".join(map(str, ids))), ()


def _numbered(subject: Any) -> tuple[str, Values]:
    """A condition on mention m: the one that an IRI names, or any."""
    if subject is None:
        return "true", ()
    number = statement_number_in(subject)
    return ("false", ()) if number is None else ("m.number = ?", (number,))
