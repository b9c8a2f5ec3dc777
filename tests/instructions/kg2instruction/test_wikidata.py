"""What is read out of Wikidata's JSON, in all the shapes that it comes in."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from src.errors import UserError
from src.instructions.kg2instruction.wikidata import DumpPosition, Value, read_entities, read_item
from tests.instructions.kg2instruction.conftest import SHARED, WIKIDATA

PROPERTIES = {19, 20, 31, 106, 166, 569, 570, 1477}


def entity(id: str) -> dict[str, Any]:
    return next(found for found in read_entities(WIKIDATA, DumpPosition()) if found["id"] == id)


def test_an_item_has_its_names_relations_and_values() -> None:
    item = read_item(entity("Q1000001"), "en", PROPERTIES)
    assert item is not None
    assert (item.label, item.title) == ("Ada Marlowe", "Ada Marlowe")
    assert set(item.names) == {"Ada Marlowe", "Marlowe", "A. Marlowe", "the Lady of the Bridge"}
    assert set(item.relations) == {(31, 5), (19, 1000003), (106, 81096), (106, 36180)}
    assert Value(569, "time", (1852, 3, 12, 11)) in item.values
    assert Value(1477, "text", ("Ada Grace Penhallow",)) in item.values


def test_deprecated_and_unknown_statements_are_left_out() -> None:
    item = read_item(entity("Q1000001"), "en", PROPERTIES)
    assert item is not None and not {20, 166} & {property for property, _ in item.relations}


def test_years_before_christ_are_negative() -> None:
    item = read_item(entity("Q1000014"), "en", PROPERTIES)
    assert item is not None
    assert {value.data for value in item.values} == {(-100, 0, 0, 9), (-44, 3, 15, 11)}


def test_chinese_names_of_all_variants_become_simplified() -> None:
    item = read_item(entity("Q2000001"), "zh", PROPERTIES)
    assert item is not None
    assert (item.label, item.title, set(item.names)) == ("陈远山", "陈远山", {"陈远山", "远山居士"})


def test_properties_are_no_items() -> None:
    assert read_item(entity("P19"), "en", PROPERTIES) is None


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("shape", ["array", "lines"])
def test_every_packing_and_shape_gives_the_same_entities(tmp_path: Path, ending: str, shape: str) -> None:
    raw = WIKIDATA.read_bytes()
    if shape == "lines":
        raw = b"".join(line.rstrip(b",") + b"\n" for line in raw.splitlines()[1:-1])
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    path = tmp_path / f"dump.json{ending}"
    path.write_bytes(pack(raw))
    assert list(read_entities(path, DumpPosition())) == list(read_entities(WIKIDATA, DumpPosition()))


def test_reading_goes_on_behind_the_lines_that_are_done() -> None:
    entities = list(read_entities(WIKIDATA, DumpPosition()))
    assert list(read_entities(WIKIDATA, DumpPosition(lines=10))) == entities[10:]


@pytest.mark.parametrize("ending", ["", ".bz2"])
def test_a_dump_that_is_cut_short_is_an_error(tmp_path: Path, ending: str) -> None:
    raw = WIKIDATA.read_bytes()
    path = tmp_path / f"cut.json{ending}"
    path.write_bytes(bz2.compress(raw)[:-100] if ending else raw[: raw.rindex(b"]")])
    with pytest.raises(UserError, match="cannot be read to its end"):
        list(read_entities(path, DumpPosition()))


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text("these are\nno entities\n")
    with pytest.raises(UserError, match="2 entries in 2 lines that are no entities"):
        list(read_entities(path, DumpPosition()))


def test_a_list_on_one_line_gives_its_entities(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[{"id": "Q1"}, {"id": "Q2"}]')
    assert [entity["id"] for entity in read_entities(path, DumpPosition())] == ["Q1", "Q2"]


@pytest.mark.skipif(not (SHARED / "wikidata").is_dir(), reason="the shared Wikidata entities are not here")
def test_files_of_single_entities_are_read_as_the_api_gives_them() -> None:
    files = sorted((SHARED / "wikidata").glob("*.json"))
    entities = [entity for file in files for entity in read_entities(file, DumpPosition())]
    items = [item for one in entities if (item := read_item(one, "en", {19, 569, 1082, 2046})) is not None]
    by_id = {item.id: item for item in items}
    assert set(by_id) == {42, 8646, 20145, 33281, 3571994}
    assert (19, 350) in by_id[42].relations and Value(569, "time", (1952, 3, 11, 11)) in by_id[42].values
    assert sum(value.property == 1082 for value in by_id[8646].values) == 13
    assert json.loads(files[0].read_text(encoding="utf-8"))
