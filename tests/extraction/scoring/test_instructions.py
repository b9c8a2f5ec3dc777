"""Answers beside references: scores by language, files, and records that can't be scored."""

import json

import pytest

from src.errors import UserError
from src.extraction.scoring.instructions import evaluate, read_records
from src.generation.engine import Event
from src.instructions.synthetic_ie import make, write


class Reader:
    """Answers every English record right and every other one wrong."""

    def __init__(self, examples):
        self.right = {example.input: example.output for example in examples if example.language == "en"}

    def generate(self, requests):
        for request in requests:
            yield Event(request.id, self.right.get(request.messages[-1].input, "(甲,乙,丙)"), "stop", 1, 1)


def test_scores_are_given_for_all_and_for_each_language(tmp_path):
    split = write(tmp_path, n_train=0, n_test=8)
    result = evaluate(Reader(split.test), read_records(tmp_path / "test.jsonl"))
    scores = result.metrics["scores"]
    assert scores["en"]["f1"] == scores["en"]["exact_match"] == scores["en"]["text_exact_match"] == 1
    assert scores["zh"]["f1"] == 0 and scores["all"]["exact_match"] == 0.5
    result.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["scores"] == scores
    assert len((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 8


def test_answers_that_are_not_triples_get_text_exact_match_only():
    records = [{"id": 1, "instruction": "2 + 2", "input": "x", "output": "4"}]
    scores = evaluate(Reader(make(n_train=0, n_test=0).test), records).metrics["scores"]
    assert scores == {"all": {"records": 1, "text_exact_match": 0.0}}


def test_records_of_one_id_get_an_answer_each():
    split = make(n_train=0, n_test=4)
    records = [
        {"id": "same", "instruction": e.instruction, "input": e.input, "output": e.output, "language": e.language}
        for e in split.test
    ]
    result = evaluate(Reader(split.test), records)
    assert result.metrics["scores"]["en"]["text_exact_match"] == 1
    assert [prediction.id for prediction in result.predictions] == ["same"] * len(records)


@pytest.mark.parametrize(
    "content", [b"", b'{"instruction": "x"}', b"no json", b'{"output": "x"}', b"[1]", b'{"instruction": "\xff"}']
)
def test_a_file_without_answers_is_refused(tmp_path, content):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"d\.jsonl"):
        read_records(tmp_path / "d.jsonl")
