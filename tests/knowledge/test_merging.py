"""Entities of one name become one, and come apart again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.knowledge.names import NameRules
from src.knowledge.store import KnowledgeStore
from src.knowledge.triples import Provenance, Triple
from tests.knowledge.cases import any_triples


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "facts.db") as opened:
        yield opened


def test_entities_of_one_name_become_one_with_aliases(store: KnowledgeStore) -> None:
    store.add([Triple("IBM", "made", "OS/2"), Triple("IBM", "made", "PC"), Triple("ＩＢＭ", "made", "PC")])
    done = store.merge_duplicates()
    assert (done.entities, done.names, done.ambiguous) == (1, 1, ())
    (about,) = store.about("ibm")
    assert (about.entity.name, about.entity.aliases) == ("IBM", ("ＩＢＭ",))
    assert [fact.tail for fact in about.outgoing] == ["OS/2", "PC"]
    assert [mention.head for fact in about.outgoing for mention in fact.mentions] == ["ＩＢＭ"]


def test_names_as_found_are_never_lost(store: KnowledgeStore) -> None:
    triples = [Triple("IBM", "made", "PC"), Triple("ibm", "made", "PC", provenance=Provenance("d"))]
    store.add(triples)
    store.merge_duplicates()
    assert list(store) == triples


def test_a_name_without_type_joins_the_only_type_there_is(store: KnowledgeStore) -> None:
    store.add([Triple("Paris", "in", "x"), Triple("Paris", "has", "y"), Triple("paris", "is", "z", "City")])
    store.merge_duplicates()
    (found,) = store.find("Paris")
    assert (found.type, found.outgoing) == ("City", 3)


def test_names_of_several_types_stay_apart_and_are_told(store: KnowledgeStore) -> None:
    store.add(
        [
            Triple("Washington", "led", "army", "Person"),
            Triple("washington", "on", "Potomac", "City"),
            Triple("WASHINGTON", "has", "Mall", "City"),
            Triple("Washington", "is", "old"),
        ]
    )
    done = store.merge_duplicates()
    assert (done.entities, done.names, done.ambiguous) == (1, 1, ("washington",))
    assert sorted(each.type for each in store.find("washington")) == ["City"]
    assert sorted(each.type for each in store.find("Washington")) == ["", "Person"]


def test_values_are_not_merged(store: KnowledgeStore) -> None:
    store.add([Triple("a", "in", "２０２０年"), Triple("b", "in", "2020年"), Triple("c", "is", "X", "", "Text")])
    assert store.merge_duplicates().names == 0


def test_a_merge_can_be_undone(store: KnowledgeStore) -> None:
    store.add([Triple("IBM", "r", "x"), Triple("ibm", "r", "x"), Triple("IBM Corp.", "r", "x")])
    before = [vars(entity) for entity in store.entities()]
    store.merge_duplicates()
    store.merge_duplicates(NameRules(legal_forms=True))
    assert store.find("ibm corp.")[0].aliases == ("ibm", "IBM Corp.")
    assert store.undo_merge() == 1
    assert store.find("IBM")[0].aliases == ("ibm",)
    assert store.undo_merge() == 1
    assert [vars(entity) for entity in store.entities()] == before
    with pytest.raises(UserError, match="nothing to undo"):
        store.undo_merge()


def test_entities_are_merged_by_hand(store: KnowledgeStore) -> None:
    store.add([Triple("IBM", "r", "x"), Triple("Big Blue", "r", "y"), Triple("z", "of", "Big Blue")])
    assert store.merge("IBM", ["Big Blue"]).names == 1
    assert [fact.tail for fact in store.match(head="Big Blue")] == ["x", "y"]
    assert [fact.tail for fact in store.match(head="z")] == ["IBM"]
    assert store.merge("IBM", ["Big Blue"]).names == 0


def test_merging_what_is_not_known_or_not_clear_is_an_error(store: KnowledgeStore) -> None:
    store.add([Triple("Paris", "r", "x", "City"), Triple("Paris", "r", "y", "Person")])
    with pytest.raises(UserError, match="nothing is called 'Rome'"):
        store.merge("x", ["Rome"])
    with pytest.raises(UserError, match=r"2 entities are called 'Paris' \(City, Person\)"):
        store.merge("Paris", ["x"])


@settings(max_examples=30, deadline=None)
@given(triples=st.lists(any_triples, max_size=10))
def test_merging_twice_finds_nothing_more_and_undoing_gives_the_same_store(
    tmp_path_factory: pytest.TempPathFactory, triples: list[Triple]
) -> None:
    with KnowledgeStore(tmp_path_factory.mktemp("store") / "facts.db") as store:
        store.add(triples)
        before = list(store.facts())
        done = store.merge_duplicates()
        assert store.merge_duplicates().names == 0
        if done.id:
            assert store.undo_merge() == done.names
        assert list(store.facts()) == before
