"""Requests out of files and cases; answers into files that a second run continues."""

import json

import pytest

from src.errors import UserError
from src.generation.engine import Decoding, Event, Request
from src.generation.tasks import Answer, as_markdown, read_cases, read_requests, run_to_file
from src.models.templates import Message


class Echo:
    """An engine that answers with the prompt, in two pieces."""

    def generate(self, requests):
        for request in requests:
            yield Event(request.id, request.prompt[:1])
            yield Event(request.id, request.prompt[1:], "stop", 1, 2)


def test_text_files_hold_a_prompt_a_line_and_jsonl_files_a_record(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n二\u2028x\n", encoding="utf-8")
    requests = read_requests(tmp_path / "p.txt", chat=False, decoding=Decoding())
    assert [(request.id, request.prompt) for request in requests] == [("1", "one"), ("3", "二\u2028x")]
    rows = [{"instruction": "Q", "input": "t", "output": "gold", "id": "a"}, {"prompt": "P"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second = read_requests(tmp_path / "p.jsonl", chat=True, decoding=Decoding(), system="S")
    assert first == Request("a", messages=[Message("system", "S"), Message("user", "Q", "t")])
    assert (second.id, second.messages[-1].content) == ("2", "P")


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"output": "x"}', '{"prompt": ""}'])
def test_a_bad_prompts_file_is_a_sentence(tmp_path, content):
    (tmp_path / "p.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"p\.jsonl"):
        read_requests(tmp_path / "p.jsonl", chat=True, decoding=Decoding())


def test_a_second_run_only_generates_what_is_missing(tmp_path):
    out, done = tmp_path / "sub" / "out.jsonl", []
    requests = [Request(name, prompt=f"text {name}") for name in "abc"]
    assert run_to_file(Echo(), requests[:2], out, done.append) == (2, 0)
    with out.open("a", encoding="utf-8") as file:
        file.write('{"id": "c", "text": "ha')  # killed while writing
    assert run_to_file(Echo(), requests, out, done.append) == (1, 2)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [(name, f"text {name}") for name in "abc"]
    assert len(done) == 3


@pytest.mark.parametrize("name", ["pretraining", "extraction", "general"])
def test_the_built_in_cases_read_with_every_kind_of_decoding(name):
    for decoding in (Decoding(), Decoding(do_sample=True, temperature=0.7)):
        requests = read_cases(name, decoding, can_chat=True)
        assert len({request.id for request in requests}) == len(requests) >= 6
        assert all((request.messages is None) == (name == "pretraining") for request in requests)


def test_unknown_cases_name_the_known_ones():
    with pytest.raises(UserError, match="extraction, general, pretraining"):
        read_cases("extrction", Decoding(), True)


def test_markdown_keeps_answers_that_hold_fences():
    text = as_markdown("T", [Answer("a", "q", "```py\nx\n```", "stop", 1, 2)])
    assert "````\n```py\nx\n```\n````" in text
