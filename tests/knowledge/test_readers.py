"""Triples out of other files: extraction records, CSV, RDF."""

import json
from pathlib import Path

import pytest

from src.errors import UserError
from src.knowledge.readers import read_triples
from src.knowledge.triples import Provenance, Span, Triple


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_records_of_extraction_give_triples_with_document_and_sentence(tmp_path: Path) -> None:
    relation = {"head": "中国", "relation": "首都", "tail": "北京", "head_span": [10, 12], "tail_span": [7, 9]}
    record = {"id": "d1", "text": "今天是晴天。\n北京是中国的首都。好。", "relation": [relation], "entity": []}
    path = written(tmp_path / "x.jsonl", json.dumps(record) + "\n\n" + json.dumps({"id": "d2", "text": ""}) + "\n")
    where = Provenance("d1", "", "北京是中国的首都。")
    assert list(read_triples(path)) == [
        Triple("中国", "首都", "北京", head_span=Span(10, 12), tail_span=Span(7, 9), provenance=where)
    ]


def test_what_a_triple_says_of_its_provenance_stays(tmp_path: Path) -> None:
    record = {"head": "a", "relation": "r", "tail": "b", "provenance": {"document": "mine"}}
    path = written(tmp_path / "x.jsonl", json.dumps({"id": "d", "relation": [record]}))
    assert next(read_triples(path)).provenance == Provenance("mine")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"head": "a", "relation": "r", "tail": "b"}\n{"head": "a"}', "line 2: .*is no triple"),
        ("x.jsonl", "{not json}", "line 1"),
        ("x.jsonl", "[1]", "line 1: .*no JSON object"),
        ("x.jsonl", '{"relation": ["a"]}', "must be an object"),
        ("x.jsonl", '{"head": "a", "relation": 5, "tail": "b"}', "relation is 5"),
        ("x.csv", "head,tail\na,b\n", "no column relation"),
        ("x.csv", "head,relation,tail\na,r,b\na,,b\n", "line 3"),
        ("x.jsonl", '{"head": "a\\ud800", "relation": "r", "tail": "b"}', "line 1: .*half of a surrogate"),
        ("x.jsonl", '{"head": "a", "relation": "r", "tail": "b", "score": NaN}', "score of 'a' is nan"),
        ("x.jsonl", '{"head": "a", "relation": "r", "tail": "b", "head_span": [1, 99999999999999999999]}', "a span of"),
        ("x.jsonl", '{"head": ' + "[" * 100_000, "line 1: .*recursion"),
        ("x.nt", "no rdf", "can't be read as nt"),
        ("x.jsonld", '{"@context": "http://127.0.0.1:9/", "@id": "urn:x", "urn:y": "z"}', "nothing is fetched"),
        (
            "x.ttl",
            '[] a rdf:Statement ; rdf:subject <u:a> ; rdf:predicate <u:b> ; rdf:object 1 ; k:score "x" .',
            "score",
        ),
        ("x.docx", "", "no ending that says"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    prefixes = "@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . @prefix k: <urn:knowlm:term:> .\n"
    with pytest.raises(UserError, match=message):
        list(read_triples(written(tmp_path / name, prefixes + text if name == "x.ttl" else text)))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_a_file_of_another_encoding_is_an_error_and_a_byte_order_mark_none(tmp_path: Path, name: str) -> None:
    text = "head,relation,tail\n北京,r,b\n" if name == "x.csv" else '{"head": "北京", "relation": "r", "tail": "b"}'
    (tmp_path / name).write_bytes(text.encode("gbk"))
    with pytest.raises(UserError, match="is not UTF-8"):
        list(read_triples(tmp_path / name))
    (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
    assert list(read_triples(tmp_path / name)) == [Triple("北京", "r", "b")]


def test_a_field_of_a_table_may_be_long(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", f"head,relation,tail\na,r,{'长' * 200_000}\n")
    assert len(next(read_triples(path)).tail) == 200_000


def test_ids_of_documents_may_be_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", '{"head": "a", "relation": "r", "tail": "b", "provenance": {"document": 17}}')
    assert next(read_triples(path)).provenance == Provenance("17")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_triples(tmp_path / "none.jsonl")


def test_others_rdf_is_read_by_its_labels(tmp_path: Path) -> None:
    pytest.importorskip("rdflib")
    text = """
    @prefix ex: <http://example.org/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
    ex:Q90 rdfs:label "Paris" ; a ex:City ; ex:capital_of <http://example.org/things#France> ; ex:people 2100000 .
    """
    assert set(read_triples(written(tmp_path / "x.ttl", text))) == {
        Triple("Paris", "capital_of", "France", "City"),
        Triple("Paris", "people", "2100000", "City"),
    }
