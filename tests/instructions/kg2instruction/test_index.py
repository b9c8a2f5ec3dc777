"""The index keeps all meanings of a name, and goes on where it was stopped."""

import json
from pathlib import Path

import pytest

from src.errors import UserError
from src.instructions.kg2instruction import index as module
from src.instructions.kg2instruction.index import KnowledgeIndex, build_index
from tests.instructions.kg2instruction.conftest import WIKIDATA


def test_a_name_leads_to_all_its_items_the_best_known_first(index: KnowledgeIndex) -> None:
    assert index.named("Marlowe") == [1000005, 1000001]
    assert index.named("nobody") == []


def test_a_title_leads_to_its_item(index: KnowledgeIndex) -> None:
    assert index.titled("Marlowe, Norland") == 1000005
    assert index.titled("marlowe, norland") is None


def test_relations_are_known_in_both_directions(index: KnowledgeIndex) -> None:
    assert (50, 1000001) in index.relations(1000010)
    assert 1000010 in index.heads(1000001, 10)
    assert (31, 5) not in index.relations(1000001) and index.classes(1000001, 31) == [5]


def test_an_odd_entity_is_counted_and_does_not_end_the_reading(tmp_path: Path, index: KnowledgeIndex) -> None:
    dump = tmp_path / "dump.json"
    odd = b'{"id": "Q9", "type": "item", "claims": {"P19": [{"mainsnak": {"snaktype": "value"}}]}},\n5,\n'
    dump.write_bytes(WIKIDATA.read_bytes().replace(b"[\n", b"[\n" + odd, 1))
    counts = build_index([dump], tmp_path / "wikidata.sqlite", "en", lambda done, items: None)
    assert counts == index.counts() | {"bad_lines": 2}


def test_a_stopped_reading_goes_on_without_loss_or_repetition(
    tmp_path: Path, index: KnowledgeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_ITEMS", 7)
    target = tmp_path / "wikidata.sqlite"
    half = WIKIDATA.read_bytes().splitlines(keepends=True)
    dump = tmp_path / "dump.json"
    dump.write_bytes(b"".join(half))

    class Stop(Exception):
        pass

    read = module.read_item
    calls = 0

    def stopping(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise Stop
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_item", stopping)
    with pytest.raises(Stop):
        build_index([dump], target, "en", lambda done, items: None)
    assert not target.exists()
    calls = 1000
    counts = build_index([dump], target, "en", lambda done, items: None)
    assert counts == index.counts()
    assert calls < 1000 + len(half) - 20  # what was committed was not read again


def test_what_is_no_index_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.sqlite"
    path.write_text(json.dumps({}) * 1000)
    with pytest.raises(UserError, match="no index"):
        KnowledgeIndex(path, "en")
    with pytest.raises(UserError, match="there is no index"):
        KnowledgeIndex(tmp_path / "absent", "en")
