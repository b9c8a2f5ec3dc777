"""``python scripts/evaluate.py`` on annotated texts and on answers that are there already."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.extraction.schema import Task
from tests.end_to_end.tiny_runs import ENVIRONMENT
from tests.extraction.answers_of_tasks import CASES
from tests.extraction.scoring.test_answer_files import write

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=600)


def test_a_model_is_scored_on_annotated_texts(tmp_path: Path) -> None:
    case = CASES[Task.NER]
    samples = tmp_path / "dev.jsonl"
    rows = [{"id": name, "text": case.text, **case.items.as_dict()} for name in "abc"]
    samples.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    settings = [f"samples={samples}", "schema=[人物,组织机构]", "task=ner", "limit=2", "max_new_tokens=48"]
    done = evaluate(*settings, "model=llama_tiny", "template=chatml", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "ner of dev.jsonl, extractive" in done.stdout and "answers: 2 exact" in done.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["documents"] == 2 and metrics["tasks"]["ner"]["entity"]["micro"]["expected"] == 4
    assert len((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_answers_are_scored_three_ways_without_a_model(tmp_path: Path) -> None:
    path = write(tmp_path / "answers.json", CASES[Task.NER].answer)
    done = evaluate(f"answers={path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("100.00") == 3 and "strict: 1 exact" in done.stdout


def test_mistakes_end_in_a_sentence(tmp_path: Path) -> None:
    assert "found records and samples" in evaluate("records=a", "samples=b").stderr
    path = write(tmp_path / "answers.json", CASES[Task.NER].answer)
    assert "mode=bag is not known" in evaluate(f"answers={path}", "mode=bag").stderr
    assert "can't be made a folder" in evaluate(f"answers={path}", f"output={path}").stderr
