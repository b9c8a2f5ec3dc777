"""A model's answers from a file, scored three ways."""

import json
from pathlib import Path

import pytest

from src.errors import UserError
from src.extraction.formats.oneke import OneKE
from src.extraction.schema import Task
from src.extraction.scoring.answer_files import read_answers, side_by_side
from tests.extraction.answers_of_tasks import CASES


def write(path: Path, *outputs: str, **more: object) -> Path:
    case = CASES[Task.NER]
    instruction = OneKE().message(case.question, case.text).content
    label = json.dumps([entity.as_dict() for entity in case.items.entities], ensure_ascii=False)
    row = {"id": "1", "source": "s", "instruction": instruction, "label": label} | more
    path.write_text("\n".join(json.dumps(row | {"output": output}) for output in outputs), encoding="utf-8")
    return path


def test_tolerant_strict_and_iepile_scores_stand_side_by_side(tmp_path: Path) -> None:
    answers = read_answers(
        write(tmp_path / "a.json", f"```\n{CASES[Task.NER].answer}\n```", '{"组织机构": ["青岛海牛队"]}')
    )
    found = side_by_side(answers, OneKE())
    f1 = {way: found[way]["tasks"]["ner"]["entity"]["micro"]["f1"] for way in ("tolerant", "strict")}
    assert f1 == {"tolerant": 100, "strict": pytest.approx(200 / 3)}
    assert found["iepile"]["ner"] == {
        "entity": {"precision": 100, "recall": 50, "f1": 66.67},
        "records": 1,
        "errors": 1,
    }
    assert found["tolerant"]["records"] == 1 and found["strict"]["answers"] == {"exact": 1, "failed": 1}


@pytest.mark.parametrize(
    ("more", "words"),
    [({"label": "no JSON"}, "a.json:1"), ({"instruction": "Extract."}, "a.json:1"), ({"output": 1}, "no text under")],
)
def test_rows_that_can_not_be_scored_are_named(tmp_path: Path, more: dict, words: str) -> None:
    path = write(tmp_path / "a.json", CASES[Task.NER].answer, **more)
    if "output" in more:
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_answers(path)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        read_answers(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="at least one"):
        read_answers(tmp_path / "empty.json")


def test_rows_without_an_id_are_told_apart_by_their_text_and_the_limit_counts_texts(tmp_path: Path) -> None:
    lines = []
    for name in "abc":
        row = {"source": "s", "instruction": OneKE().message(CASES[Task.NER].question, name).content}
        label = [{"entity": name, "entity_type": "人物"}]
        outputs = (json.dumps({"人物": [name]}), "{}")  # two prompts of one text
        lines += [json.dumps(row | {"label": label, "output": output}) for output in outputs]
    path = tmp_path / "a.json"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = side_by_side(read_answers(path), OneKE())
    assert found["tolerant"]["records"] == found["iepile"]["ner"]["records"] == 3
    assert found["tolerant"]["f1"] == found["iepile"]["ner"]["entity"]["f1"] == 100
    assert len(read_answers(path, limit=2)) == 4
