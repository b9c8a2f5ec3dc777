"""``python scripts/knowledge.py`` as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from scripts.knowledge import with_names
from src.command import CONFIGS, ROOT


def test_words_after_the_action_are_names() -> None:
    assert with_names(["about", "O'Hara", "json=true"]) == ["action=about", r"names=['O\'Hara']", "json=true"]
    query = "SELECT ?x { ?x r:a ?y FILTER(?y = 5) }"
    assert with_names(["query", query]) == ["action=query", f"names=['{query}']"]
    assert with_names(["--help"]) == ["--help"]


@pytest.mark.parametrize("name", ["a\\b", "a\\", "it's \\'", "${x}", "\\${x}", "${", "a,b [c] {d: 5}", "\n😀", '"\\d"'])
def test_names_come_through_hydra_as_they_are(name: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert list(compose("knowledge", overrides=with_names(["about", name])).names) == [name]


@pytest.mark.slow
def test_a_store_is_filled_asked_merged_and_exported(tmp_path: Path) -> None:
    def run(*words: str, status: int = 0) -> str:
        command = [sys.executable, str(ROOT / "scripts" / "knowledge.py"), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    capital = {"head": "中国", "relation": "首都", "tail": "北京", "head_span": [3, 5]}
    event = {"event_type": "birth", "event_trigger": "born", "start": 4, "end": 8}
    event["arguments"] = [{"argument": "Ada", "role": "who", "start": 0, "end": 3}]
    ada = {"entity": "Ada", "entity_type": "person", "start": 0, "end": 3}
    records = [
        {"id": "d1", "text": "北京是中国的首都。", "task": "re", "relation": [capital]},
        {"id": "d2", "text": "Ada born.", "task": "ee", "entity": [ada], "event": [event]},
        {"head": "IBM", "relation": "made", "tail": "PC"},
    ]
    (tmp_path / "found.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert "found.jsonl: 5 new facts, 5 new mentions" in run("add", "found.jsonl", "source=smollm2")
    (about,) = run("about", "北京", "json=true").splitlines()
    where = json.loads(about)["facts"][0]["mentions"][0]["provenance"]
    assert where == {"document": "d1", "source": "smollm2", "sentence": "北京是中国的首都。"}
    assert "entity's: 1, of 1" in run("merge")  # Ada the person and Ada who plays a role
    query = 'SELECT ?event { ?event r:who ?x . ?x rdfs:label ?n FILTER(?n = "Ada") }'
    assert "e:born (d2:4):birth" in run("query", query)
    assert "made.ttl: 5 facts" in run("export", "made.ttl")
    assert "did you mean 中国?" in run("about", "国", status=2)
    assert "regular expression" in run("query", 'SELECT * { ?a r:made ?b FILTER regex(str(?a), "(") }', status=2)
    assert "can't be written" in run("export", "found.jsonl/x.nt", status=2)
