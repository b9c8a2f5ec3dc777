"""The whole run over the fixtures: what the records say, that it repeats, and what is refused."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from src.corpus.executors import Local
from src.errors import UserError
from src.instructions.kg2instruction.completion import Complete, FoundTriple
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.pipeline import make_records, plan
from src.instructions.kg2instruction.settings import Settings
from tests.instructions.kg2instruction.conftest import FIXTURE, SHARED, WIKIDATA, make, read_records, triples_of
from tests.instructions.kg2instruction.test_entailment import save_model

Records = list[dict[str, Any]]


def test_spans_are_what_they_say(english: Records, chinese: Records) -> None:
    assert len(english) == 8 and len(chinese) == 3
    for record in english + chinese:
        text = record["text"]
        for triple in record["relation"]:
            assert text[slice(*triple["head_span"])] == triple["head"]
            assert text[slice(*triple["tail_span"])] == triple["tail"]
        for entity in record["entity"]:
            assert text[entity["start"] : entity["end"]] == entity["entity"]


def test_a_person_has_dates_names_relations_and_nothing_else(english: Records) -> None:
    assert triples_of(english, "Ada Marlowe") == {
        ("Ada Marlowe", "date of birth", "March 12, 1852"),
        ("Ada Marlowe", "date of death", "3 July 1911"),
        ("Ada Marlowe", "alternative name", "the Lady of the Bridge"),
        ("Ada Marlowe", "occupation", "engineer"),
        ("Ada Marlowe", "occupation", "writer"),
        ("Ada Marlowe", "country of citizenship", "Norland"),
        ("Marlowe", "spouse", "Henry Voss"),
        ("Henry Voss", "spouse", "Marlowe"),
        ("Marlowe", "work", "The Iron Tide"),
        ("Marlowe", "place of birth", "Brackwater"),
    }


def test_a_redirect_leads_to_the_item_of_its_target(english: Records) -> None:
    entities = {e["entity"]: e["item"] for e in english[0]["entity"] if "item" in e}
    assert entities["Brackwater City"] == "Q1000003"


def test_a_name_of_two_items_means_the_one_that_the_page_is_about(english: Records) -> None:
    meant = {(r["title"], e["item"]) for r in english for e in r["entity"] if e["entity"] == "Marlowe"}
    assert meant == {("Ada Marlowe", "Q1000001"), ("Lyn Light", "Q1000005")}


def test_a_date_before_christ_is_found_and_is_no_year_of_today(english: Records) -> None:
    assert triples_of(english, "Caius Tarn") == {
        ("Caius Tarn", "date of birth", "100 BC"),
        ("Caius Tarn", "date of death", "March 15, 44 BC"),
        ("Caius Tarn", "place of birth", "Brackwater"),
    }


def test_what_follows_from_two_places_is_left_out(english: Records) -> None:
    located = {(h, t) for h, r, t in triples_of(english, "Brackwater") if r == "located in"}
    assert located == {
        ("Brackwater", "Veldshire"), ("Veldshire", "Norland"), ("Lyn", "Norland"),
    }  # fmt: skip


def test_quantities_are_found_with_their_unit_and_not_within_other_numbers(english: Records) -> None:
    found = {(r, t) for _, r, t in triples_of(english, "Brackwater") if r in ("population", "area")}
    assert found == {("population", "48,312 inhabitants"), ("area", "27.4 km2"), ("population", "48,312 people")}
    assert ("Brackwater Bridge", "length", "1240 m") in triples_of(english, "Brackwater Bridge")


def test_a_property_is_turned_round_where_the_topic_says_it_so(english: Records) -> None:
    novel = [t for r in english for t in r["relation"] if t["tail"] == "The Iron Tide"]
    assert [(t["relation"], t["provenance"]["property"], t["provenance"]["q_head"]) for t in novel] == [
        ("work", "P50", "Q1000001")
    ]
    assert ("The Iron Tide", "author", "Ada Marlowe") in triples_of(english, "The Iron Tide")


def test_lists_formulas_tables_and_sources_make_no_texts(english: Records) -> None:
    texts = " ".join(record["text"] for record in english)
    assert "a novel of Ada Marlowe about the sea" not in texts
    assert "units of" not in texts and "wikitable" not in texts and "list of sources" not in texts


def test_pairs_without_a_relation_are_named_apart(english: Records) -> None:
    light = next(record for record in english if record["title"] == "Lyn Light")
    assert all(pair["head"] and pair["tail"] for record in english for pair in record.get("no_relation", []))
    assert len(light.get("no_relation", [])) == 0  # its two places stand in different sentences
    first = english[0]
    pairs = {frozenset((pair["q_head"], pair["q_tail"])) for pair in first["no_relation"]}
    assert len(pairs) == 2 and frozenset(("Q1000001", "Q1000002")) not in pairs


def test_traditional_characters_name_items_and_stay_as_they_are_written(chinese: Records) -> None:
    assert triples_of(chinese, "陳遠山") == {
        ("陳遠山", "出生日期", "1881年9月25日"),
        ("陳遠山", "死亡日期", "1936年10月19日"),
        ("陳遠山", "别名", "遠山居士"),
        ("陳遠山", "国籍", "華國"),
        ("陳遠山", "职业", "作家"),
        ("陳遠山", "出生地点", "青石鎮"),
        ("陳遠山", "作品", "長夜集"),
    }
    assert triples_of(chinese, "徐公") == {("徐公", "职业", "作家"), ("徐公", "死亡日期", "公元前44年3月15日")}


def test_chinese_places_have_measures_and_a_chain_of_places(chinese: Records) -> None:
    assert triples_of(chinese, "青石镇") == {
        ("青石镇", "位于", "雲州"),
        ("雲州", "位于", "华国"),
        ("青石镇", "面积", "943平方公里"),
        ("青石镇", "人口", "2,424人"),
    }


def test_the_schema_file_names_every_relation_of_the_records(english: Records, tmp_path: Path) -> None:
    make(tmp_path / "en", "en")
    schema = json.loads((tmp_path / "en" / "schema.json").read_text(encoding="utf-8"))
    assert len(schema) == 12
    for record in english:
        strings, names = schema[record["cate"]]
        for t in record["relation"]:
            assert t["relation"] in names
            assert f"{t['head_type']}_{t['relation']}_{t['tail_type']}" in strings


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    settings = {"validation_fraction": 0.3, "test_fraction": 0.3, "part_bytes": 500}
    make(tmp_path / "one", "en", 1, **settings)
    make(tmp_path / "two", "en", 2, **settings)
    for split in ("train", "validation", "test"):
        assert (tmp_path / "one" / f"{split}.jsonl").read_bytes() == (tmp_path / "two" / f"{split}.jsonl").read_bytes()


def test_no_page_is_in_two_splits(tmp_path: Path) -> None:
    make(tmp_path, "en", validation_fraction=0.3, test_fraction=0.3)
    titles = [
        {json.loads(line)["title"] for line in (tmp_path / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, titles)) == len(set.union(*titles)) == 6
    assert all(titles)


def test_a_run_that_was_stopped_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", "en", keep_work=True)
    settings = Settings(
        wikipedia=[str(FIXTURE / "enwiki.xml")], wikidata=[str(WIKIDATA)], output=tmp_path / "cut", keep_work=True
    )

    class Stopping(Local):
        def run(self, stages: Any, logs: Path, on_progress: Any) -> None:
            super().run(stages[:3], logs, on_progress)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_records(settings, Stopping(1))
    pages = next((tmp_path / "cut" / ".work" / "files").glob("pages-*"))
    before = pages.stat().st_mtime_ns
    make_records(settings, Local(1))
    assert read_records(tmp_path / "cut") == whole
    assert pages.stat().st_mtime_ns == before


def test_other_settings_are_refused_until_overwrite_is_given(tmp_path: Path) -> None:
    make(tmp_path, "en")
    assert len(make(tmp_path, "en")) == 8  # nothing is done again
    with pytest.raises(UserError, match="other settings"):
        make(tmp_path, "en", max_triples=2)
    assert all(len(record["relation"]) <= 2 for record in make(tmp_path, "en", max_triples=2, overwrite=True))


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another run"):
        make(tmp_path, "en")


def test_a_model_that_finds_triples_and_one_that_judges_them_take_part(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", ["neutral", "entailment"])

    def run() -> Records:
        found = functools.partial(finds, ("Ada Marlowe", "work", "The Iron Tide"), ("Ada", "sibling", "Norland"))
        return make(tmp_path / "out", "en", completion=found, entailment={"model": model, "threshold": 0.0})

    records = run()
    added = [t for r in records for t in r["relation"] if t["provenance"]["source"] == "llm"]
    assert {(t["head"], t["relation"], t["tail"]) for t in added} == {("Ada", "sibling", "Norland")}
    assert run() == records  # the same function with the same arguments is the same request
    assert all(0 < t["provenance"]["nli"] <= 1 for record in records for t in record["relation"])


def finds(*triples: tuple[str, str, str]) -> Complete:
    """A model that finds the same in every text."""
    return lambda text, relations: [FoundTriple(*triple) for triple in triples]


def test_an_index_serves_a_second_run_without_the_dump(tmp_path: Path, english: Records) -> None:
    make(tmp_path / "first", "en")
    again = make(
        tmp_path / "second", "en", wikidata=[], index=tmp_path / "first" / "wikidata.sqlite", unrelated_pairs=2
    )
    assert again == english


def test_another_index_is_another_request(tmp_path: Path) -> None:
    make(tmp_path / "first", "en")
    dump = tmp_path / "fewer.json"
    dump.write_bytes(b"".join(WIKIDATA.read_bytes().splitlines(keepends=True)[:-20]) + b"]\n")
    make(tmp_path / "fewer", "en", wikidata=[str(dump)])
    out = tmp_path / "out"
    make(out, "en", wikidata=[], index=tmp_path / "first" / "wikidata.sqlite")
    with pytest.raises(UserError, match="from other files"):
        make(out, "en", wikidata=[], index=tmp_path / "fewer" / "wikidata.sqlite")


def test_a_dump_in_another_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a dump of zhwiki: give language=zh"):
        make(tmp_path, "en", wikipedia=[str(FIXTURE / "zhwiki.xml")])


def test_a_large_dump_is_cut_into_no_more_parts_than_files_can_be_open(tmp_path: Path) -> None:
    settings = Settings(
        wikipedia=[str(FIXTURE / "enwiki.xml")], wikidata=[str(WIKIDATA)], output=tmp_path, part_bytes=1
    )
    assert plan(settings).tasks == 128


def test_an_index_in_another_language_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "en", "en")
    with pytest.raises(UserError, match="language=en, not zh"):
        make(tmp_path / "zh", "zh", index=tmp_path / "en" / "wikidata.sqlite")


def test_texts_without_triples_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    records = make(tmp_path, "en", empty_texts=1.0, dictionary="none")
    assert any(not record["relation"] for record in records)


def test_a_paragraph_as_scope_finds_more_than_a_sentence(english: Records, tmp_path: Path) -> None:
    from src.instructions.kg2instruction.relate import Relating

    wide = make(tmp_path, "en", relating=Relating(scope="paragraph", bare_years=True))
    assert ("The Iron Tide", "publication date", "1894") in triples_of(wide, "The Iron Tide")
    assert ("Ada Marlowe", "place of birth", "Brackwater City") in triples_of(wide, "Ada Marlowe")
    assert ("Ada Marlowe", "place of birth", "Brackwater City") not in triples_of(english, "Ada Marlowe")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wikidata": []}, "neither wikidata"),
        ({"wikipedia": ["/nowhere.xml"]}, "leads to no Wikipedia dump"),
        ({"language": "fr"}, "no names of relations"),
        ({"empty_texts": 2.0}, "no fraction"),
        ({"dictionary": "some"}, "dictionary=some"),
        ({"entailment": {"threshold": 0.5}}, "names no model"),
        ({"max_triples": "many"}, "no whole number"),
        ({"min_triples": 5, "max_triples": 4}, "leave no texts"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    given = {"wikipedia": [str(FIXTURE / "enwiki.xml")], "wikidata": [str(WIKIDATA)], "output": tmp_path} | settings
    with pytest.raises(UserError, match=message):
        plan(Settings(**given))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "wiki").is_dir(), reason="the shared Wikipedia excerpt is not here")
def test_the_excerpt_of_the_english_wikipedia_gives_true_triples(tmp_path: Path) -> None:
    settings = {
        "wikipedia": [str(next((SHARED / "wiki").glob("*.bz2")))],
        "wikidata": [str(WIKIDATA), str(SHARED / "wikidata")],
    }
    records = make(tmp_path, "en", 2, part_bytes=200_000, **settings)
    assert ("Abraham Lincoln", "date of birth", "February 12, 1809") in triples_of(records, "Abraham Lincoln")
    assert ("Lincoln", "spouse", "Mary Todd") in triples_of(records, "Abraham Lincoln")
    assert ("Andorra", "area", "468 km2") in triples_of(records, "Andorra")
    assert ("aardvark", "taxon name", "Orycteropus afer") in triples_of(records, "Aardvark")
    index = KnowledgeIndex(tmp_path / "wikidata.sqlite", "en")
    assert (19, 350) in index.relations(42)  # Douglas Adams was born in Cambridge
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["steps"]["pages"]["redirects"] == 99 and report["steps"]["pages"]["pages"] == 106
