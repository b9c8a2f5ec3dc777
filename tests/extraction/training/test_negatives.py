"""Which types a training record asks for besides those of its text."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.schema import EntityType, EventType, RecordType, RelationType, Role, Task
from src.extraction.training.negatives import (
    build_hard,
    chosen_elements,
    is_positive,
    label_of,
    read_hard,
    shuffled,
)
from tests.extraction.ie_data import ie_data

TYPES = tuple(EntityType(f"t{n}") for n in range(20))


def holding(*names: str) -> Items:
    return Items(tuple(Entity(f"text of {name}", name) for name in names))


def chosen(items: Items, way: str, seed: int = 0, **more: object) -> list[str]:
    found = chosen_elements(TYPES, items, way, 4, random.Random(seed), **more)  # type: ignore[arg-type]
    return [element.name for element in found]


def test_all_asks_for_the_whole_schema() -> None:
    assert chosen(holding("t3"), "all") == [each.name for each in TYPES]


@given(st.sets(st.sampled_from([each.name for each in TYPES])), st.integers(0, 50), st.floats(0, 1))
def test_positives_are_always_asked_for_in_the_schemas_order(names: set[str], seed: int, ratio: float) -> None:
    for way in ("random", "hard"):
        found = chosen(holding(*names), way, seed, ratio=ratio)
        assert names <= set(found)
        assert found == sorted(found, key=lambda name: int(name[1:]))
        assert found  # a text without positives is asked for something


def test_random_takes_the_share_of_negatives_on_average() -> None:
    counts = [len(chosen(holding("t0"), "random", seed, ratio=0.3)) - 1 for seed in range(400)]
    assert 5.4 < sum(counts) / len(counts) < 6.0  # 0.3 × 19 = 5.7


def test_hard_takes_the_confusable_ones_and_as_many_others_as_a_portion() -> None:
    found = chosen(holding("t0"), "hard", hard={"t0": ["t7", "t9", "not in the schema"]})
    assert {"t0", "t7", "t9"} <= set(found) and len(found) == 1 + 2 + 4


def test_a_label_the_dictionary_does_not_know_has_no_hard_negatives() -> None:
    assert len(chosen(holding("t0"), "hard", hard={"t1": ["t2"]})) == 1 + 4


def test_without_positives_hard_takes_half_the_share() -> None:
    counts = [len(chosen(Items(), "hard", seed, ratio=1.0)) for seed in range(400)]
    assert 9.5 < sum(counts) / len(counts) < 10.5


def test_a_single_type_is_always_asked_for() -> None:
    for seed in range(20):
        assert chosen_elements(TYPES[:1], Items(), "hard", 4, random.Random(seed), ratio=0.1) == [TYPES[0]]


def test_filled_roles_stay_where_roles_are_drawn() -> None:
    event = EventType("e", tuple(Role(f"r{n}") for n in range(10)))
    items = Items(events=(Event("e", "t", (Argument("x", "r8"),)),))
    sizes = set()
    for seed in range(30):
        (found,) = chosen_elements([event], items, "random", 4, random.Random(seed), ratio=0.3)
        assert isinstance(found, EventType) and Role("r8") in found.roles
        sizes.add(len(found.roles))
    assert min(sizes) < 10 and len(sizes) > 2


def test_each_kind_of_element_knows_its_positives() -> None:
    items = Items(relations=(Relation("a", "r", "b", "X", "Y"),))
    assert is_positive(RelationType("r"), items) and is_positive(RelationType("r", "X", "Y"), items)
    assert not is_positive(RelationType("r", "X", "Z"), items)
    assert is_positive(RecordType("X", (Role("r"),)), items)
    assert not is_positive(RecordType("W", (Role("r"),)), items)
    assert is_positive(RecordType("P"), Items((Entity("a", "P"),)))


@given(st.integers(0, 1000))
def test_shuffling_loses_nothing_and_depends_on_the_seed_alone(seed: int) -> None:
    events = [EventType(f"e{n}", tuple(Role(f"r{m}") for m in range(5))) for n in range(4)]
    once, again = (shuffled(events, random.Random(seed)) for _ in range(2))
    assert once == again
    assert sorted(event.name for event in once) == [event.name for event in events]
    assert all(sorted(role.name for role in event.roles) == ["r0", "r1", "r2", "r3", "r4"] for event in once)  # type: ignore[union-attr]


def test_names_that_are_alike_are_hard_negatives_nearest_first() -> None:
    types = [EntityType(name) for name in ("organization", "person", "organisation name", "place")]
    hard = build_hard(types, neighbours=1)
    assert hard["organization"] == ["organisation name"]


def test_relations_between_the_same_types_are_hard_negatives() -> None:
    relations = [RelationType("父亲", "人", "人"), RelationType("妻", "人", "人"), RelationType("首都", "国", "城")]
    assert build_hard(relations)["人_父亲_人"] == ["人_妻_人"]
    assert label_of(RelationType("父亲")) == "父亲"


def test_iepiles_dictionary_is_read_by_task_and_data_set() -> None:
    file = ie_data("iepile_format/hard_dict.json")
    assert "症状和体征" in read_hard(file, Task.NER, "ccks2017")
    with pytest.raises(UserError, match=r"no data set 'nope' for task=ner: it knows ccks2017"):
        read_hard(file, Task.NER, "nope")


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "it knows nothing")])
def test_what_is_no_dictionary_is_said(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "hard.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        read_hard(tmp_path / "hard.json", Task.NER, "a")
    with pytest.raises(UserError, match="no dictionary"):
        read_hard(tmp_path / "absent.json", Task.NER, "a")


def test_a_dictionary_written_as_json_is_read_again(tmp_path: Path) -> None:
    hard = build_hard(TYPES)
    (tmp_path / "hard.json").write_text(json.dumps({"NER": {"mine": hard}}), "utf-8")
    assert read_hard(tmp_path / "hard.json", Task.NER, "mine") == hard
