"""The store: facts once, each mention kept, lookups, threads and kills."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.command import ROOT
from src.errors import UserError
from src.knowledge import store as store_module
from src.knowledge.store import Added, KnowledgeStore
from src.knowledge.triples import Provenance, Triple
from tests.knowledge.cases import AGE, BORN, CAPITAL, TRIPLES, WROTE, any_triples, same_but_for_scores


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "facts.db") as opened:
        yield opened


def test_what_was_added_comes_back_in_order(store: KnowledgeStore) -> None:
    assert store.add(TRIPLES) == Added(4, 3)
    assert list(store) == TRIPLES
    assert len(store) == len(TRIPLES)


@settings(max_examples=40, deadline=None)
@given(triples=st.lists(any_triples, max_size=12))
def test_nothing_is_lost_and_nothing_invented(tmp_path_factory: pytest.TempPathFactory, triples: list[Triple]) -> None:
    with KnowledgeStore(tmp_path_factory.mktemp("store") / "facts.db") as store:
        store.add(triples)
        found = list(store)
        # A bare triple is said by any mention of it too.
        keys = {(t.head, t.relation, t.tail, t.head_type, t.tail_type) for t in found}
        assert {(t.head, t.relation, t.tail, t.head_type, t.tail_type) for t in triples} == keys
        assert same_but_for_scores(found) <= same_but_for_scores(triples)
        placed = [t for t in triples if t.provenance]
        assert same_but_for_scores(placed) <= same_but_for_scores(found)


def test_adding_again_changes_nothing(store: KnowledgeStore) -> None:
    store.add(TRIPLES)
    assert store.add(TRIPLES) == Added(0, 0)
    assert list(store) == TRIPLES


def test_one_fact_has_all_its_provenances(store: KnowledgeStore) -> None:
    again = replace(CAPITAL, provenance=Provenance("d7", "wikidata"))
    assert store.add([CAPITAL, again]) == Added(1, 2)
    (fact,) = store.match(head="中国")
    assert fact.mentions == (CAPITAL, again)
    assert fact.as_dict()["documents"] == ["d1", "d7"]


def test_an_entity_is_known_from_both_sides(store: KnowledgeStore) -> None:
    store.add(TRIPLES)
    (city,) = store.about("北京")
    (country,) = store.about("中国")
    assert city.incoming == country.outgoing
    assert (city.outgoing, country.incoming) == ((), ())
    assert (city.entity.type, city.entity.incoming, city.entity.outgoing) == ("城市", 1, 0)


def test_an_entity_is_found_whatever_its_case_and_width(store: KnowledgeStore) -> None:
    store.add(TRIPLES)
    assert {each.entity.type for each in store.about("ＡＤＡ  lovelace")} == {"Person", ""}
    assert store.about("nobody") == []


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"relation": "born"}, [BORN]),
        ({"head": "Ada Lovelace"}, [BORN, AGE, WROTE]),
        ({"head": "Ada Lovelace", "relation": "age"}, [AGE]),
        ({"tail": "36"}, [AGE]),
        ({"relation": "nothing"}, []),
        ({"head": "nobody"}, []),
        ({}, TRIPLES),
    ],
)
def test_facts_match_by_their_parts(store: KnowledgeStore, parts: dict[str, str], expected: list[Triple]) -> None:
    store.add(TRIPLES)
    found = {(fact.head, fact.relation, fact.tail) for fact in store.match(**parts)}
    assert found == {(t.head, t.relation, t.tail) for t in expected}


@pytest.mark.parametrize("text", ["北", "京", "北京", "love", "ada love"])
def test_search_finds_parts_of_names(store: KnowledgeStore, text: str) -> None:
    store.add(TRIPLES)
    assert store.search(text)[0].name in ("北京", "Ada Lovelace")


def test_search_finds_names_without_words(store: KnowledgeStore) -> None:
    store.add([Triple("😀!", "means", "joy")])
    assert [entity.name for entity in store.search("😀")] == ["😀!"]


@pytest.mark.parametrize("text", ["京北", "lace", '"', "", "AND", "*", "x*"])
def test_search_finds_nothing_else_and_takes_any_text(store: KnowledgeStore, text: str) -> None:
    store.add(TRIPLES)
    assert store.search(text) == []


def test_counts_and_relations(store: KnowledgeStore) -> None:
    store.add([*TRIPLES, replace(AGE, tail="37")])
    assert store.counts() == {
        **{"entities": 8, "names": 8, "relations": 4, "facts": 5, "mentions": 3, "documents": 2, "merges": 0}
    }
    assert next(iter(store.relations().items())) == ("age", 2)
    assert {entity.name for entity in store.entities("Person")} == {"Ada Lovelace"}


def test_a_document_can_be_taken_out(store: KnowledgeStore) -> None:
    store.add([*TRIPLES, replace(CAPITAL, provenance=Provenance("d7"))])
    assert store.remove("d1") == 1
    assert len(next(store.match(head="中国")).mentions) == 1
    assert store.remove("d7") == 1
    assert list(store.match(head="中国")) == []
    assert store.remove("d7") == 0


def test_a_triple_without_a_part_is_an_error_and_its_batch_is_not_kept(store: KnowledgeStore) -> None:
    with pytest.raises(UserError, match="empty head, relation or tail"):
        store.add([CAPITAL, Triple("x", "", "y")])
    assert len(store) == 0
    store.add([CAPITAL])  # ids of names that were rolled back are not used
    assert list(store) == [CAPITAL]


def test_batches_before_a_failing_one_are_kept(store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BATCH", 2)
    with pytest.raises(UserError):
        store.add([BORN, AGE, CAPITAL, Triple("x", "", "y")])
    assert list(store) == [BORN, AGE]


def test_triples_may_come_from_the_store_itself(store: KnowledgeStore) -> None:
    store.add(TRIPLES)
    assert store.add(replace(triple, provenance=Provenance("copy")) for triple in store) == Added(0, 4)


def test_threads_write_and_read_one_store_at_a_time(store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BATCH", 10)
    seen: list[int] = []

    def write(number: int) -> None:
        store.add(Triple(f"e{i % 20}", "r", f"{number} {i}", provenance=Provenance("d")) for i in range(200))

    def read() -> None:
        for _ in range(50):
            seen.append(sum(1 for _ in store))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 600
    assert len(list(store.find("e3"))) == 1
    assert seen == sorted(seen) and all(count % 10 == 0 for count in seen)


def test_a_store_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no knowledge store"):
        KnowledgeStore(tmp_path / "none.db", must_exist=True)
    assert not (tmp_path / "none.db").exists()


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "text.txt", tmp_path / "other.db"
    text.write_text("not a database, but long enough to be read as the header of one" * 20)
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE mine (x)")
    other.close()
    for path, reason in ((text, "can't be opened"), (database, "no knowledge store")):
        before = path.read_bytes()
        with pytest.raises(UserError, match=reason):
            KnowledgeStore(path)
        assert path.read_bytes() == before


WRITER = """
import sys
from src.knowledge import store
from src.knowledge.triples import Provenance, Triple
store.BATCH = 50
print("ready", flush=True)
opened = store.KnowledgeStore(sys.argv[1])
opened.add(Triple(f"e{i % 997}", "r", f"x{i}", provenance=Provenance(f"d{i}")) for i in range(10**9))
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "facts.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    count = 0
    while count < 500:
        assert writer.poll() is None
        if path.exists():
            with KnowledgeStore(path) as reading:
                count = len(reading)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with KnowledgeStore(path) as store:
        assert len(store) >= count and len(store) % 50 == 0
        assert [t.tail for t in store] == [f"x{i}" for i in range(len(store))]
        assert store.tables.reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.add([Triple("e1", "r", "new")]) == Added(1, 0)
