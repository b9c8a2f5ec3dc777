"""``python scripts/extract.py`` as a person runs it: one text, files that are continued, prompts, and mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.tiny_runs import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def extract(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "extract.py"), *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=600,
    )


def test_a_text_is_shown_with_its_spans_in_place() -> None:
    done = extract("text=Ada, Bo and Cy live in Bern.", "schema=[person,place]", "max_new_tokens=24", "confidence=true")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert "|person]" in first and "kind" in rest[0] and "1 answers (1 exact)" in rest[-1]


def test_files_are_written_and_continued_and_other_settings_refused(tmp_path: Path) -> None:
    rows = [{"id": name, "text": f"{name} lives in Bern."} for name in ("Ada", "Bo", "Cy")]
    source, out = tmp_path / "d.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = [f"input={source}", f"output={out}", "schema=person_org_place", "max_new_tokens=32", "model=llama_tiny"]
    first = extract(*same, "limit=2")
    assert first.returncode == 0 and "2 documents written" in first.stdout, first.stderr
    second = extract(*same)
    assert "1 documents written" in second.stdout and "(2 were there already)" in second.stdout
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == ["Ada", "Bo", "Cy"]
    assert all(record["report"]["statuses"] == {"exact": 1} for record in records)
    other = extract(*same, "task=re")
    assert other.returncode == 2 and 'was made with another task ("ner", and now "re")' in other.stderr


def test_the_doctor_and_the_preview_show_the_prompt() -> None:
    seen = extract("text=Ada", "schema=[person]", "preview=true")
    assert "<|im_start|>assistant" in seen.stdout and "1 prompts, " in seen.stdout and "── answer" not in seen.stdout
    doctor = extract("text=Ada", "schema=[person]", "doctor=true", "model=llama_tiny", "max_new_tokens=16")
    assert "substring_chunks" in doctor.stdout and "── answer (" in doctor.stdout and "── read: exact" in doctor.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["schema=cluener"], "give text='…' or input=FILE_OR_FOLDER: found neither"),
        (["text=x", "schema=cluener", "task=ee"], "schema 'cluener' has no events"),
        (["text=x", "schema=cluener", "output=a.doc"], "no ending that says what to write"),
        (["input=docs", "schema=cluener", "output=docs/a.jsonl"], "output=docs/a.jsonl lies in input=docs"),
        (["text=x", "schema=cluener", "limit=0"], "limit=0 leaves no document"),
        (["text=x", "schema=cluener", "max_items=few"], "max_items=few can't be: give a whole number"),
        (["text=x", "schema=cluener", "task=7"], "task=7 is not known"),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], said: str) -> None:
    done = extract(*arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
