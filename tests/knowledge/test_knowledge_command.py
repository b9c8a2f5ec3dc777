"""``python scripts/knowledge.py`` as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.knowledge import with_names
from src.command import ROOT

pytestmark = pytest.mark.slow


def test_words_after_the_action_are_names() -> None:
    assert with_names(["about", "O'Hara", "json=true"]) == ["action=about", r"names=['O\'Hara']", "json=true"]
    query = "SELECT ?x { ?x r:a ?y FILTER(?y = 5) }"
    assert with_names(["query", query]) == ["action=query", f"names=['{query}']"]
    assert with_names(["--help"]) == ["--help"]


def test_a_store_is_filled_asked_merged_and_exported(tmp_path: Path) -> None:
    def run(*words: str, status: int = 0) -> str:
        command = [sys.executable, str(ROOT / "scripts" / "knowledge.py"), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    record = {
        "id": "d1",
        "text": "北京是中国的首都。",
        "relation": [{"head": "中国", "relation": "首都", "tail": "北京"}],
    }
    other = {"head": "IBM", "relation": "made", "tail": "PC"}
    lines = [record, other, {**other, "head": "ibm", "tail": "OS/2"}]
    (tmp_path / "found.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    assert "3 new facts, 1 new mentions" in run("add", "found.jsonl", "source=smollm2")
    (about,) = run("about", "北京", "json=true").splitlines()
    assert json.loads(about)["facts"][0]["mentions"][0]["provenance"] == {"document": "d1", "source": "smollm2"}
    assert "entity's: 1, of 1" in run("merge")
    assert "OS/2" in run("query", 'SELECT ?n { e:IBM r:made ?x . ?x rdfs:label ?n FILTER(?n = "OS/2") }')
    assert "made.ttl: 3 facts" in run("export", "made.ttl")
    assert "did you mean 中国?" in run("about", "国", status=2)
