"""Exports: what is written is read back by rdflib, networkx and ourselves as the same facts."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.knowledge.exports import ENDINGS, write_facts, write_triples
from src.knowledge.readers import read_triples
from src.knowledge.store import KnowledgeStore
from src.knowledge.triples import Provenance, Span, Triple
from tests.knowledge.cases import AGE, BORN, CAPITAL, TRIPLES, any_triples, same_but_for_scores

rdflib = pytest.importorskip("rdflib")
READABLE = [".nt", ".ttl", ".jsonld", ".csv", ".jsonl"]
RDF = {".nt": "nt", ".ttl": "turtle", ".jsonld": "json-ld"}


@pytest.mark.parametrize("ending", READABLE)
def test_what_is_written_is_read_again(tmp_path: Path, ending: str) -> None:
    assert write_triples(TRIPLES, tmp_path / f"x{ending}") == len(TRIPLES)
    assert set(read_triples(tmp_path / f"x{ending}")) == set(TRIPLES)


@pytest.mark.parametrize("ending", READABLE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(triples=st.lists(any_triples, max_size=4))
@example([Triple("a", "b", "-0.0"), Triple("1e5", "b", "0.000000001"), Triple("a\r\n\t\\\"'<>", "b", "c\x00d")])
def test_any_triples_survive(tmp_path: Path, ending: str, triples: list[Triple]) -> None:
    path = tmp_path / f"x{ending}"
    write_triples(triples, path)
    found = list(read_triples(path))
    assert same_but_for_scores(found) <= same_but_for_scores(triples)
    placed = [t for t in triples if t.provenance]
    assert same_but_for_scores(placed) <= same_but_for_scores(found)
    bare = {(t.head, t.head_type, t.relation, t.tail) for t in triples}
    assert bare == {(t.head, t.head_type, t.relation, t.tail) for t in found}


def test_all_kinds_of_rdf_say_the_same(tmp_path: Path) -> None:
    graphs = []
    for ending, name in RDF.items():
        write_triples(TRIPLES, tmp_path / f"x{ending}")
        graphs.append(set(rdflib.Graph().parse(tmp_path / f"x{ending}", format=name)))
    assert graphs[0] == graphs[1] == graphs[2]
    assert len(graphs[0]) > len(TRIPLES)


def test_rdf_has_types_labels_values_and_provenance(tmp_path: Path) -> None:
    write_triples([CAPITAL, BORN, AGE], tmp_path / "x.ttl")
    graph = rdflib.Graph().parse(tmp_path / "x.ttl")
    rows = graph.query(
        "SELECT ?name ?document ?start WHERE { ?s rdf:subject ?e ; k:document ?document ; k:headStart ?start . "
        "?e rdfs:label ?name ; a t:%E5%9B%BD%E5%AE%B6 }"
    )
    assert [tuple(map(str, row)) for row in rows] == [("中国", "d1", "3")]
    values = {value.toPython() for value in graph.objects() if isinstance(value, rdflib.Literal)}
    assert 36 in values and __import__("datetime").date(1815, 12, 10) in values


def test_a_name_has_one_iri_in_every_file(tmp_path: Path) -> None:
    for name, triple in (("a.nt", CAPITAL), ("b.nt", Triple("x", "visited", "北京", tail_type="城市"))):
        write_triples([triple], tmp_path / name)
    one, other = ((tmp_path / name).read_text() for name in ("a.nt", "b.nt"))
    assert "<urn:knowlm:entity:%E5%8C%97%E4%BA%AC:%E5%9F%8E%E5%B8%82>" in one
    assert "<urn:knowlm:entity:%E5%8C%97%E4%BA%AC:%E5%9F%8E%E5%B8%82>" in other


def test_graphml_opens_in_networkx(tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    write_triples([*TRIPLES, Triple("a\x01<&>\"'", "r", "\ufffe")], tmp_path / "x.graphml")
    graph = networkx.read_graphml(tmp_path / "x.graphml")
    labels = networkx.get_node_attributes(graph, "label")
    facts = {(labels[head], data["label"], labels[tail]) for head, tail, data in graph.edges(data=True)}
    assert facts == {(t.head, t.relation, t.tail) for t in TRIPLES} | {("a\ufffd<&>\"'", "r", "\ufffd")}
    (edge,) = (data for _, _, data in graph.edges(data=True) if data["label"] == "首都")
    assert (edge["score"], edge["weight"], edge["documents"]) == (0.9, 1, "d1")
    assert {data["kind"] for _, data in graph.nodes(data=True)} == {"entity", "value"}


def test_csv_has_a_column_for_each_part(tmp_path: Path) -> None:
    write_triples([CAPITAL], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["head"], row["head_start"], row["head_end"], row["sentence"]) == (
        "中国",
        "3",
        "5",
        "北京是中国的首都。",
    )


def test_a_merged_store_writes_one_entity_with_its_names(tmp_path: Path) -> None:
    found = [Triple("IBM", "made", "PC"), Triple("IBM", "made", "OS/2"), Triple("ibm", "made", "PC")]
    with KnowledgeStore(tmp_path / "facts.db") as store:
        store.add(found)
        store.merge_duplicates()
        assert write_facts(store.facts(), tmp_path / "x.nt") == 2
        write_facts(store.facts(), tmp_path / "x.graphml")
    text = (tmp_path / "x.nt").read_text()
    assert '<urn:knowlm:entity:IBM> <http://www.w3.org/2004/02/skos/core#altLabel> "ibm" .' in text
    assert Triple("ibm", "made", "PC") in set(read_triples(tmp_path / "x.nt"))
    assert (tmp_path / "x.graphml").read_text().count("<node ") == 3


def test_an_unknown_ending_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.nt, \.ttl, \.jsonld, \.graphml, \.csv, \.jsonl"):
        write_triples(TRIPLES, tmp_path / "x.foo")


def test_a_failed_export_leaves_the_earlier_file(tmp_path: Path) -> None:
    def failing():  # type: ignore[no-untyped-def]
        yield CAPITAL
        raise RuntimeError("no more")

    for ending in ENDINGS:
        path = tmp_path / f"x{ending}"
        path.write_text("earlier")
        with pytest.raises(RuntimeError):
            write_triples(failing(), path)
        assert path.read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == len(ENDINGS)


def test_nothing_to_write_is_a_file_that_says_so(tmp_path: Path) -> None:
    for ending in RDF:
        write_triples([], tmp_path / f"x{ending}")
        assert list(read_triples(tmp_path / f"x{ending}")) == []
    write_triples([], tmp_path / "x.graphml")
    assert "</graphml>" in (tmp_path / "x.graphml").read_text()


def test_jsonl_has_what_is_known_of_a_triple(tmp_path: Path) -> None:
    write_triples([Triple("a", "r", "b", head_span=Span(0, 1), provenance=Provenance("d"))], tmp_path / "x.jsonl")
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {
        **{"head": "a", "relation": "r", "tail": "b", "head_span": [0, 1], "provenance": {"document": "d"}}
    }
