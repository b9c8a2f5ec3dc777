"""The relations of a topic: what is turned round, dropped for its types, or follows from others."""

from hypothesis import given
from hypothesis import strategies as st

from src.instructions.kg2instruction.facts import Fact
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.limit import Kinds, SchemaLimit, _follows
from src.instructions.kg2instruction.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
SPANS = ((0, 1), (2, 3))


def limit(index: KnowledgeIndex) -> SchemaLimit:
    return SchemaLimit(Kinds(index, VOCABULARY), VOCABULARY)


def test_kinds_are_found_by_climbing(index: KnowledgeIndex) -> None:
    kinds = Kinds(index, VOCABULARY)
    assert kinds.kind(1000013).topic == "Building"  # lighthouse of the coast, lighthouse, tower
    assert kinds.kind(36180).type == "profession" and kinds.kind(36180).topic is None
    assert kinds.kind(999).type == "text"


def test_a_relation_of_another_topic_is_dropped_and_counted(index: KnowledgeIndex) -> None:
    one = limit(index)
    fact = Fact(*SPANS, "kg", 50, 1000010, 1000001)
    assert [f.rule.names["en"] for f in one.limit([fact], "Works") if f.rule] == ["author"]
    assert one.limit([fact], "Medicine") == [] and one.dropped["relation_not_in_topic"] == 1


def test_an_end_of_the_wrong_type_is_dropped_and_counted(index: KnowledgeIndex) -> None:
    one = limit(index)
    assert one.limit([Fact(*SPANS, "kg", 19, 1000001, 1000002)], "Person") == []  # born in a person
    assert one.dropped["type_does_not_fit"] == 1


def test_a_property_of_the_tail_is_turned_round(index: KnowledgeIndex) -> None:
    [fact] = limit(index).limit([Fact(*SPANS, "kg", 50, 1000010, 1000001)], "Person")
    assert fact.rule is not None and fact.rule.names["zh"] == "作品"
    assert (fact.head, fact.tail, fact.head_item, fact.tail_item) == ((2, 3), (0, 1), 1000001, 1000010)


def test_a_chain_of_places_loses_every_shortcut(index: KnowledgeIndex) -> None:
    places = {1000003: (0, 1), 1000004: (2, 3), 1000020: (4, 5)}
    facts = [
        Fact(places[a], places[b], "kg", 131, a, b)
        for a, b in [(1000003, 1000020), (1000003, 1000004), (1000004, 1000020)]
    ]
    one = limit(index)
    kept = {(f.head_item, f.tail_item) for f in one.limit(facts, "Geographic_Location")}
    assert kept == {(1000003, 1000004), (1000004, 1000020)}
    assert one.dropped["follows_from_others"] == 1


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda e: e[0] < e[1])))
def test_reduction_loses_nothing_that_can_be_concluded(edges: set[tuple[int, int]]) -> None:
    kept = {edge for edge in edges if not _follows(edge, edges)}  # type: ignore[arg-type]
    assert closure(kept) == closure(edges)
    assert all(closure(kept - {edge}) != closure(edges) for edge in kept)


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda e: e[0] != e[1])))
def test_reduction_loses_nothing_in_circles_either(edges: set[tuple[int, int]]) -> None:
    kept = {edge for edge in edges if not _follows(edge, edges)}  # type: ignore[arg-type]
    assert closure(kept) == closure(edges)


def closure(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    found = set(edges)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found


def test_the_map_has_twelve_topics_with_unique_relations_in_both_languages() -> None:
    assert len(VOCABULARY.topics) == 12
    for language in ("en", "zh"):
        for strings, names in VOCABULARY.schema(language).values():  # type: ignore[arg-type]
            assert len(set(names)) == len(names) == len(strings)
    assert len(VOCABULARY.properties) > 100
