"""SPARQL over the store: the answers of an export in rdflib, and no way out to the network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.knowledge.exports import write_facts
from src.knowledge.store import KnowledgeStore
from src.knowledge.triples import Provenance, Triple
from tests.knowledge.cases import TRIPLES, any_triples

rdflib = pytest.importorskip("rdflib")
from src.knowledge.sparql import open_graph  # noqa: E402


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "facts.db") as opened:
        opened.add([*TRIPLES, Triple("Paris", "capital of", "France", "City", "Country", provenance=Provenance("d9"))])
        yield opened


def rows(store: KnowledgeStore, query: str) -> list[tuple[str, ...]]:
    return sorted(tuple(map(str, row)) for row in store.query(query))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('SELECT ?n { ?x r:首都 ?y . ?y rdfs:label "北京" . ?x rdfs:label ?n }', [("中国",)]),
        ("SELECT ?n { e:中国:国家 ?r ?y . ?r rdfs:label ?n }", [("首都",)]),
        ("SELECT ?n { ?y a t:城市 ; rdfs:label ?n }", [("北京",)]),
        ("SELECT ?d { ?s rdf:object e:France:Country ; k:document ?d }", [("d9",)]),
        ('SELECT ?n { ?s k:document "d2" ; rdf:subject ?x . ?x rdfs:label ?n }', [("Ada Lovelace",)]),
        ("SELECT ?n { ?x r:age ?age ; rdfs:label ?n FILTER(?age > 30) }", [("Ada Lovelace",)]),
        ("SELECT (COUNT(*) AS ?n) { ?x r:born ?when }", [("1",)]),
        ("SELECT ?x { ?x r:nothing ?y }", []),
        ("SELECT ?n { ?x r:born 5 }", []),
        ("SELECT ?s { ?s k:score 0.9e0 ; k:source ?who FILTER(?who = 'nobody') }", []),
    ],
)
def test_queries_are_answered(store: KnowledgeStore, query: str, expected: list[tuple[str, ...]]) -> None:
    assert rows(store, query) == expected


def test_a_path_of_relations_is_followed(tmp_path: Path) -> None:
    with KnowledgeStore(tmp_path / "chain.db") as store:
        store.add([Triple("a", "in", "b"), Triple("b", "in", "c"), Triple("c", "in", "a")])
        assert rows(store, "SELECT ?n { e:a r:in+ ?x . ?x rdfs:label ?n }") == [("a",), ("b",), ("c",)]


def test_merged_entities_are_one(store: KnowledgeStore) -> None:
    store.add([Triple("paris", "on", "Seine", "City")])
    store.merge_duplicates()
    query = 'SELECT ?n { ?x skos:altLabel "paris" ; r:on ?y ; r:capital%20of ?z ; rdfs:label ?n }'
    assert rows(store, query) == [("Paris",)]
    assert rows(store, "SELECT ?n { e:paris:City r:capital%20of ?z . ?z rdfs:label ?n }") == [("France",)]


@settings(max_examples=25, deadline=None)
@given(triples=st.lists(any_triples, max_size=4))
def test_the_graph_is_that_of_the_export(tmp_path_factory: pytest.TempPathFactory, triples: list[Triple]) -> None:
    folder = tmp_path_factory.mktemp("store")
    with KnowledgeStore(folder / "facts.db") as store:
        # Bare triples whose names were merged have a statement in exports alone.
        store.add(replace(triple, provenance=triple.provenance or Provenance("d")) for triple in triples)
        store.merge_duplicates()
        write_facts(store.facts(), folder / "x.nt")
        exported = set(rdflib.Graph().parse(folder / "x.nt", format="nt"))
        graph = open_graph(store)
        assert set(graph) == exported
        for subject in {s for s, _, _ in exported}:
            assert set(graph.triples((subject, None, None))) == {found for found in exported if found[0] == subject}
        for term, value in {(p, o) for _, p, o in exported}:
            found = set(graph.triples((None, term, value)))
            assert found == {each for each in exported if each[1:] == (term, value)}


@pytest.mark.parametrize(
    "query", ["SELECT ?x {", "", "SELECT ?x { ?x foo:bar 1 }", "INSERT DATA { e:a r:b e:c }", "DROP ALL"]
)
def test_what_is_no_query_is_an_error(store: KnowledgeStore, query: str) -> None:
    with pytest.raises(UserError, match="can't be read"):
        store.query(query)


def test_the_graph_can_not_be_written(store: KnowledgeStore) -> None:
    with pytest.raises(UserError, match="only reads"):
        open_graph(store).add((rdflib.URIRef("urn:a"), rdflib.URIRef("urn:b"), rdflib.URIRef("urn:c")))


def test_without_rdflib_the_error_names_what_to_install(store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rdflib", None)
    with pytest.raises(UserError, match=r"knowlm-lightning\[knowledge\]"):
        store.query("ASK { ?x ?y ?z }")


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("SELECT * { SERVICE <http://127.0.0.1:9/> { ?s ?p ?o } }", "SERVICE"),
        ("SELECT * { ?s ?p ?o FILTER NOT EXISTS { SERVICE SILENT ?x { ?s ?p ?o } } }", "SERVICE"),
        ("SELECT ?s { ?s ?p ?o } ORDER BY (EXISTS { SERVICE <http://127.0.0.1:9/> { ?s ?p ?o } })", "SERVICE"),
        ("ASK FROM <http://127.0.0.1:9/> { ?s ?p ?o }", "FROM"),
        ("SELECT * FROM NAMED <file:///etc/hosts> { ?s ?p ?o }", "FROM"),
        ("SELECT * { GRAPH ?g { ?s ?p ?o } }", "GRAPH"),
    ],
)
def test_no_query_reaches_beyond_the_store(store: KnowledgeStore, query: str, word: str) -> None:
    with pytest.raises(UserError, match=f"has {word}, and only the store"):
        store.query(query)
