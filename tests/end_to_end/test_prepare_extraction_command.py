"""``python scripts/prepare_extraction.py`` as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.tiny_runs import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prepare_extraction.py"), *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=300,
    )


def test_two_files_become_one_folder_with_counts_of_rows_and_tokens(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("Oslo\tB-location\nis\tO\ncold\tO\n\nAnn\tB-person\nspoke\tO\n", "utf-8")
    (tmp_path / "zh.jsonl").write_text(
        '{"text": "彭小军到台湾", "label": {"address": {"台湾": [[4, 5]]}}}\nno json\n', "utf-8"
    )
    output = tmp_path / "out"
    inputs = f"[{{path:{tmp_path}/en.txt,schema:conll2003}},{{path:{tmp_path}/zh.jsonl,schema:cluener,split_num:-1}}]"
    done = prepare(f"inputs={inputs}", "task=ner", f"output={output}", "validation_fraction=0", "--count-tokens")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (output / "train.jsonl").read_text("utf-8").splitlines()]
    assert [record["source"] for record in records] == ["en", "en", "zh"]
    assert '"地址"' not in records[2]["instruction"] and '"address": ["台湾"]' in records[2]["output"]
    assert "1 rows left out: not JSON" in done.stdout
    assert "3 training records, 0 for validation" in done.stdout
    assert "train.jsonl: 3 of 3 examples kept, " in done.stdout
    again = prepare(f"inputs={inputs}", "task=ner", f"output={output}")
    assert again.returncode == 2 and "out exists: give another output, or overwrite=true" in again.stderr


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    assert "inputs has no value: give inputs=…" in prepare().stderr
    done = prepare("inputs=[absent.txt]", "task=ner", "schema=conll2003", f"output={tmp_path}/out")
    assert (done.returncode, done.stdout) == (2, "") and "there is no file absent.txt" in done.stderr
    done = prepare("inputs=[absent.txt]", "task=ner", f"output={tmp_path}/out")
    assert "input absent.txt has no schema: give schema=…" in done.stderr
