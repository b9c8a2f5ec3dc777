"""scripts/kg2instruction.py as people run it, and its records in the hands of scripts/prepare_extraction.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.command import ROOT
from src.extraction.training.prepare import Source, prepare
from tests.instructions.kg2instruction.conftest import FIXTURE, WIKIDATA

pytestmark = pytest.mark.slow


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "kg2instruction.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_records_become_prompts_of_their_topics(tmp_path: Path) -> None:
    output = tmp_path / "en"
    done = run(f"wikidata={WIKIDATA}", f"wikipedia={FIXTURE / 'enwiki.xml'}", f"output={output}", "workers=1")
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout and "records" in done.stdout
    source = Source(str(output / "train.jsonl"), "re", str(output / "schema.json"))
    prepare([source], tmp_path / "prompts", validation_fraction=0)
    assert not (tmp_path / "prompts" / "rejects.jsonl").read_text(encoding="utf-8")
    lines = (tmp_path / "prompts" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(json.loads(line)["output"]) for line in lines]
    assert {"subject": "Ada Marlowe", "object": "engineer"} in [t for a in answers for t in a.get("occupation", [])]


def test_a_missing_dump_is_one_sentence(tmp_path: Path) -> None:
    done = run("wikidata=/nowhere.json", "wikipedia=/nowhere.xml", f"output={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: '/nowhere.xml' leads to no Wikipedia dump")
