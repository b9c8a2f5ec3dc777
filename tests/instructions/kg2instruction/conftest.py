"""A small Wikidata and two small Wikipedias of invented people and places, and the run over them."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.corpus.executors import Local
from src.instructions.kg2instruction.index import KnowledgeIndex, build_index
from src.instructions.kg2instruction.pipeline import make_records
from src.instructions.kg2instruction.settings import Settings
from src.instructions.kg2instruction.vocabulary import Language

FIXTURE = Path(__file__).parent / "fixture"
WIKIDATA = FIXTURE / "wikidata.json"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "ie"


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of all splits."""
    return [
        json.loads(line)
        for split in ("train", "validation", "test")
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def triples_of(records: list[dict[str, Any]], title: str) -> set[tuple[str, str, str]]:
    """(head, relation, tail) of all texts of a page."""
    return {(t["head"], t["relation"], t["tail"]) for r in records if r["title"] == title for t in r["relation"]}


def make(output: Path, language: Language, workers: int = 1, **settings: Any) -> list[dict[str, Any]]:
    """Run over the fixture and read what came out."""
    given = {"wikipedia": [str(FIXTURE / f"{language}wiki.xml")], "wikidata": [str(WIKIDATA)]} | settings
    make_records(Settings(output=output, language=language, **given), Local(workers))
    return read_records(output)


@pytest.fixture(scope="session")
def english(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return make(tmp_path_factory.mktemp("kg") / "en", "en", unrelated_pairs=2)


@pytest.fixture(scope="session")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return make(tmp_path_factory.mktemp("kg") / "zh", "zh")


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeIndex:
    """The fixture's Wikidata in English."""
    path = tmp_path_factory.mktemp("kg") / "wikidata.sqlite"
    build_index([WIKIDATA], path, "en", lambda done, items: None)
    return KnowledgeIndex(path, "en")
