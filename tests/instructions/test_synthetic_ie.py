"""The synthetic extraction set: split by entity, the same from the same seed, true to its own texts."""

import json

import pytest

from src.errors import UserError
from src.instructions.synthetic_ie import make, write


@pytest.fixture(scope="module")
def split():
    return make(seed=0)


def entities(examples):
    return {name for example in examples for fact in example.facts for name in (fact.head, fact.tail)}


def test_no_entity_of_the_test_side_occurs_in_training(split):
    assert len(split.train) == 1200 and len(split.test) == 100
    assert not entities(split.test) & entities(split.train)
    training_text = "\n".join(example.input for example in split.train)
    assert not [name for name in entities(split.test) if name in training_text]


def test_the_same_seed_gives_the_same_set_and_another_seed_another(split):
    assert make(seed=0) == split
    assert make(seed=1, n_train=50, n_test=10).train != make(seed=0, n_train=50, n_test=10).train


def test_every_entity_stands_in_the_text_and_every_relation_in_the_instruction(split):
    for example in split.train + split.test:
        assert 1 <= len(example.facts) <= 3
        for fact in example.facts:
            assert fact.head in example.input and fact.tail in example.input
            assert fact.relation in example.instruction
        assert "{" not in example.input + example.instruction + example.output


def test_the_texts_are_all_different_and_half_are_chinese(split):
    texts = [example.input for example in split.train + split.test]
    assert len(set(texts)) == len(texts)
    assert sum(example.language == "zh" for example in split.test) == 50


def test_the_files_hold_alpaca_records(tmp_path):
    split = write(tmp_path, n_train=6, n_test=2)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [example.record() for example in split.train]
    assert set(json.loads(lines[0])) == {"id", "language", "instruction", "input", "output"}


def test_an_unknown_language_is_refused():
    with pytest.raises(UserError, match="fr"):
        make(languages=("fr",))
