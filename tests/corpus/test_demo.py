"""The demo corpus: three sources of mixed document lengths, the same at every call, and its command."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.corpus.demo import code, english
from src.shards.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
VERSE = ROOT / "data" / "demo" / "zh_verse.jsonl.gz"


def test_every_source_has_many_documents_and_at_most_one_and_a_half_megabytes():
    with gzip.open(VERSE, "rt", encoding="utf-8") as lines:
        verse = [json.loads(line)["text"] for line in lines]
    assert VERSE.stat().st_size < 400_000
    for texts in (verse, [document.text for document in english()], [document.text for document in code()]):
        size = sum(len(text.encode()) for text in texts)
        assert 300_000 < size < 1_500_000
        assert len(texts) > 50


def test_the_generated_sources_are_the_same_at_every_call():
    assert list(english()) == list(english())
    assert list(code()) == list(code())


@pytest.mark.slow
def test_the_command_makes_the_demo_shards_and_says_so(tmp_path, byte_level_folder):
    arguments = [f"tokenizer={byte_level_folder}", f"paths.data_dir={tmp_path}", f"output_dir={tmp_path}/shards/demo"]
    command = [sys.executable, ROOT / "scripts" / "preprocess.py", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    for source in ("zh", "en", "code"):
        manifest = Manifest.load(tmp_path / "shards" / "demo" / source)
        assert manifest.splits["validation"].bytes >= 20_000
        assert source in run.stdout
    wrong = subprocess.run([*command, "max_length=64"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.strip().splitlines()[-1].startswith("error: the shards in")
