"""Files of what was found: every form, going on after an interruption, refusing what does not belong together."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import UserError
from src.extraction.documents import Document
from src.extraction.items import Argument, Entity, Event, Items, Relation, Sample, Span, items_from_record
from src.extraction.output import COLUMNS, open_output, triples_of
from src.extraction.plan import Extraction
from src.extraction.schema import Task
from src.knowledge.readers import read_triples
from src.knowledge.triples import Triple

TEXT = "Ada lives in Bern. Al sold a boat."
ITEMS = Items(
    (Entity("Ada", "person", Span(0, 3), 0.5),),
    (Relation("Ada", "lives in", "Bern", "person", "place", Span(0, 3), Span(13, 17)),),
    (Event("sale", "sold", (Argument("Al", "seller", Span(19, 21)),), Span(22, 26)),),
)
SETTINGS = {"model": "m", "task": "ner"}


def extraction(name: str) -> Extraction:
    return Extraction(Sample(name, TEXT, ITEMS), Task.NER)


def ignore(found: Extraction) -> None:
    pass


def interrupted(*names: str) -> Iterator[Extraction]:
    yield from map(extraction, names)
    raise KeyboardInterrupt


def test_a_jsonl_file_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        open_output(file, SETTINGS).write(interrupted("a", "b"), ignore)
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "c", "te')  # killed while writing
    output = open_output(file, dict(SETTINGS))
    missing = list(output.missing(Document(name, "x") for name in "abcd"))
    assert [document.id for document in missing] == ["c", "d"]
    done: list[str] = []
    output.write((extraction(document.id) for document in missing), lambda found: done.append(found.sample.id))
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == list("abcd") and done == ["c", "d"]
    assert items_from_record(records[0]) == ITEMS and records[0]["text"] == TEXT


def test_other_settings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    open_output(file, SETTINGS).write(iter([extraction("a")]), ignore)
    with pytest.raises(UserError, match=r'made with another task \("ner", and now "re"\)'):
        open_output(file, SETTINGS | {"task": "re"})


def test_a_file_without_a_document_is_begun_with_any_settings(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    open_output(file, SETTINGS).write(iter([]), ignore)
    open_output(file, SETTINGS | {"task": "re"}).write(iter([extraction("a")]), ignore)
    assert open_output(file, SETTINGS | {"task": "re"}).present == {"a"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("out.jsonl", '{"id": 1}\n', "without out.jsonl.settings.json"),
        ("out.csv", "", "is there already"),
        ("out.ttl", "", "is there already"),
        ("out.txt", None, "no ending that says what to write: use one of .jsonl, .csv"),
    ],
)
def test_files_that_cant_be_continued_are_refused(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        open_output(tmp_path / name, SETTINGS)


def test_a_place_that_cant_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be written \(File exists\)|can't be written \(Not a directory\)"):
        open_output(tmp_path / "file" / "out.jsonl", SETTINGS)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    open_output(file, SETTINGS).write(iter([extraction("a")]), ignore)
    with file.open("a") as stream:
        stream.write("[]\n")
    with pytest.raises(UserError, match=r"out\.jsonl:2 is no record"):
        open_output(file, SETTINGS)


def test_two_documents_of_one_id_are_refused(tmp_path: Path) -> None:
    documents = [Document("a", "x", "f.jsonl"), Document("a", "y", "g.jsonl")]
    with pytest.raises(UserError, match=r"two documents have the id 'a' \(the second in g\.jsonl\)"):
        list(open_output(tmp_path / "o.jsonl", {}).missing(documents))


def test_a_csv_file_has_a_row_for_each_item(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    open_output(file, SETTINGS).write(iter([extraction("a")]), ignore)
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [row["kind"] for row in rows] == ["entity", "relation", "event", "argument"]
    assert [rows[0][key] for key in ("document", "type", "text", "start", "end", "score")] == [
        *("a", "person", "Ada", "0", "3", "0.5")
    ]
    assert (rows[1]["head"], rows[1]["tail_start"], rows[1]["tail_type"]) == ("Ada", "13", "place")
    assert (rows[3]["head"], rows[3]["role"], rows[3]["text"], rows[3]["start"]) == ("sold", "seller", "Al", "19")


def test_triples_say_where_and_by_whom_they_were_found() -> None:
    relation, entity, event, argument = triples_of(extraction("d"), "oneke")
    assert relation.provenance is not None and relation.provenance.sentence == "Ada lives in Bern."
    assert (relation.head, relation.tail_span, relation.provenance.source) == ("Ada", Span(13, 17), "oneke")
    assert (entity.head, entity.relation, entity.tail, entity.score) == ("Ada", "mentioned in", "d", 0.5)
    assert (event.head, event.head_type) == (argument.head, argument.head_type) == ("sold (d:22)", "sale")
    assert (argument.relation, argument.tail, argument.tail_span) == ("seller", "Al", Span(19, 21))


@pytest.mark.parametrize("ending", ["nt", "ttl", "jsonld"])
def test_an_interrupted_graph_is_whole_and_read_back(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    with pytest.raises(KeyboardInterrupt):
        open_output(file, SETTINGS).write(interrupted("a", "b"), ignore)

    def told(triple: Triple) -> tuple[str, str, str]:
        return triple.head, triple.relation, triple.tail

    expected = {told(triple) for name in "ab" for triple in triples_of(extraction(name))}
    assert {told(triple) for triple in read_triples(file)} == expected


def test_a_graphml_file_has_the_entities_as_nodes(tmp_path: Path) -> None:
    file = tmp_path / "out.graphml"
    open_output(file, SETTINGS).write(iter([extraction("a")]), ignore)
    root = ElementTree.parse(file).getroot()
    names = {data.text for data in root.iter() if data.tag.endswith("data") and data.get("key") == "n_label"}
    assert {"Ada", "Bern", "Al", "sold (a:22)"} <= names
