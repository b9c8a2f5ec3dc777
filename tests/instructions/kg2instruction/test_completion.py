"""Triples that a model adds are joined with those of Wikidata."""

from src.instructions.kg2instruction.completion import FoundTriple, completed
from src.instructions.kg2instruction.facts import Fact, TextUnit
from src.instructions.kg2instruction.vocabulary import load_vocabulary

RULES = load_vocabulary().rules["Person"]
TEXT = "Ada Marlowe was born in Old Brackwater."
BORN = Fact((0, 11), (24, 38), "kg", 19, 1, 2, rule=next(rule for rule in RULES if 19 in rule.of))


def found(*triples: tuple[str, str, str], facts: tuple[Fact, ...] = ()) -> list[tuple[str, str, str, str]]:
    unit = TextUnit("Ada Marlowe", 1, TEXT, (len(TEXT),), (), "Person", facts)
    result = completed(unit, RULES, "en", lambda text, relations: [FoundTriple(*triple) for triple in triples])
    return [(TEXT[slice(*f.head)], f.rule.names["en"], TEXT[slice(*f.tail)], f.source) for f in result if f.rule]


def test_a_triple_in_the_text_is_added_and_marked() -> None:
    assert found(("Ada Marlowe", "place of birth", "Old Brackwater")) == [
        ("Ada Marlowe", "place of birth", "Old Brackwater", "llm")
    ]


def test_what_wikidata_knows_stays_its_own_and_nested_ones_go() -> None:
    triples = [("Ada Marlowe", "place of birth", "Old Brackwater"), ("Ada", "place of birth", "Brackwater")]
    assert found(*triples, facts=(BORN,)) == [("Ada Marlowe", "place of birth", "Old Brackwater", "kg")]


def test_a_part_of_a_word_is_not_in_the_text() -> None:
    assert found(("Ada Marlowe", "place of birth", "water"), ("Ad", "place of birth", "Old Brackwater")) == []


def test_what_is_not_in_the_text_or_not_asked_for_is_left_out() -> None:
    assert (
        found(("Ada", "place of birth", "Paris"), ("Ada", "height", "Old"), ("Ada", "work", "Ada"), ("", "work", "Ada"))
        == []
    )


def test_the_model_is_asked_for_the_relations_of_the_topic() -> None:
    asked: list[list[str]] = []
    unit = TextUnit("t", 1, TEXT, (len(TEXT),), (), "Person")
    completed(unit, RULES, "zh", lambda text, relations: asked.append(list(relations)) or [])  # type: ignore[func-returns-value]
    assert asked == [[rule.names["zh"] for rule in RULES]]
