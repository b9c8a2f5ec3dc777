"""Requests out of files and cases; answers into files that a second run continues."""

import asyncio
import json
import time

import pytest

from src.errors import UserError
from src.generation.engine import Decoding, EngineDown, Event, Request, TokenLogprob
from src.generation.tasks import CASES, Answer, AnswerPool, answers, read_cases, read_requests, run_to_file, split_input
from src.models.templates import Message


class Echo:
    """An engine that answers with the prompt, in two pieces; a long prompt takes longer, "never" a minute."""

    max_parallel = 1
    released = False

    def generate(self, requests):
        for request in requests:
            yield from self.events(request)

    def events(self, request):
        pieces = request.prompt[:1], request.prompt[1:]
        tokens = [
            TokenLogprob(piece, piece.encode(), -0.5) for piece in pieces if request.decoding.logprobs is not None
        ]
        yield Event(request.id, pieces[0], logprobs=tuple(tokens[:1]))
        yield Event(request.id, pieces[1], "stop", 1, 2, tuple(tokens[1:]))

    async def stream(self, request):
        if request.prompt == "!":
            raise EngineDown("gone")
        await asyncio.sleep(60 if request.prompt == "never" else len(request.prompt) / 50)
        for event in self.events(request):
            yield event

    async def release(self):
        self.released = True


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


def test_answers_have_the_log_probabilities_of_all_their_tokens_and_files_show_them():
    request = Request("a", prompt="text", decoding=Decoding(logprobs=0))
    (answer,) = answers(Echo(), [request])
    assert [(token.token, token.logprob) for token in answer.logprobs] == [("t", -0.5), ("ext", -0.5)]
    assert answer.as_dict()["logprobs"] == [["t", -0.5], ["ext", -0.5]]
    assert "logprobs" not in Answer("a", "", "", "stop", 1, 1).as_dict()


def test_a_pool_gives_answers_as_they_come_and_takes_more_in_between():
    engine = Echo()
    with AnswerPool(engine) as pool:
        pool.submit(Request("long", prompt="a long one"))
        pool.submit(Request("short", prompt="b"))
        assert pool.under_way == pool.room == 2
        assert pool.next().id == "short"
        pool.submit(Request("more", prompt="c"))
        assert [pool.next().text, pool.next().text] == ["c", "a long one"]
        with pytest.raises(RuntimeError, match="no request is under way"):
            pool.next()
    assert engine.released


def test_a_pool_raises_what_the_engine_raises_and_stops_what_is_under_way():
    engine, start = Echo(), time.monotonic()
    with pytest.raises(EngineDown, match="gone"), AnswerPool(engine) as pool:
        pool.submit(Request("a", prompt="never"))
        pool.submit(Request("b", prompt="!"))
        pool.next()
    assert engine.released and time.monotonic() - start < 30


SETS = ["pretraining", "extraction", "general"]
# beams, repetition penalty and the temperature that had no effect, of each case of KnowLM's README in its order
GENERAL = [(3, 1.3, 0.1), (4, 1.3, 0.2), (4, 1.1, 0.5), (2, 1.5, 0.4), *[(4, 1.3, 0.2)] * 3, (3, 1.0, 0.1)]
EXTRACTION = [(4, 1.3, 0.2), (2, 1.3, 0.4), (4, 1.3, 0.2), (4, 1.3, 0.2)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pretraining", [(3, 1.6, 0.3)] * 18), ("general", GENERAL), ("extraction", EXTRACTION)],
)
def test_the_built_in_cases_have_the_decoding_of_knowlm(name, expected):
    cases = read_cases(name, Decoding())
    found = [(case.decoding.num_beams, case.decoding.repetition_penalty) for case in cases]
    assert found == [(beams, penalty) for beams, penalty, _ in expected]
    assert [case.without_effect["temperature"] for case in cases] == [temperature for *_, temperature in expected]
    for case in cases:
        assert case.decoding.max_new_tokens == 512 and not case.decoding.do_sample
        assert (case.without_effect["top_p"], case.without_effect["top_k"]) == (0.75, 40)


@pytest.mark.parametrize("name", SETS)
def test_built_in_cases_are_requests_with_and_without_a_template(name):
    cases = read_cases(name, Decoding())
    for case in cases:
        assert (case.request(can_chat=True).messages is None) == (name == "pretraining")
        assert case.request(can_chat=False).prompt
        assert "[input]" not in case.request(can_chat=True, system="S").__repr__()


@pytest.mark.parametrize("name", SETS)
def test_sampling_takes_the_place_of_beams_and_a_limit_that_was_given_holds(name):
    cases = read_cases(name, Decoding(20, do_sample=True, temperature=0.7), {"max_new_tokens"})
    assert all(case.decoding.do_sample and case.decoding.num_beams == 1 for case in cases)
    assert all(case.decoding.max_new_tokens == 20 and not case.without_effect for case in cases)
    assert all(case.decoding.max_new_tokens == 512 for case in read_cases(name, Decoding(1000), {"max_new_tokens"}))


def test_every_setting_that_was_given_goes_over_that_of_a_case():
    cases = read_cases("extraction", Decoding(num_beams=1, repetition_penalty=1.0), {"num_beams"})
    assert {(case.decoding.num_beams, case.decoding.repetition_penalty) for case in cases} == {(1, 1.3)}


def test_unknown_cases_name_the_known_ones():
    with pytest.raises(UserError, match="extraction, general, pretraining"):
        read_cases("extrction", Decoding())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "cases: [{prompt: x}]",
        "cases: x",
        "cases: [{name: a, prompt: x, decoding: {beams: 3}}]",
        "cases: [{name: a, prompt: x",
        "cases: [{name: a, prompt: x}, {name: a, prompt: y}]",
    ],
)
def test_a_case_file_that_is_none_is_a_sentence(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"c\.yaml"):
        read_cases(str(tmp_path / "c.yaml"), Decoding())


def test_an_instruction_and_its_text_may_stand_in_one_string():
    both = {"instruction": "Find the names.", "input": "Anna met Boris."}
    assert split_input({"instruction": "Find the names.[input]Anna met Boris."}, chat=True) == both
    assert split_input({"prompt": "Find the names. [input] Anna met Boris."}, chat=True) == both


@pytest.mark.parametrize(
    ("record", "chat"),
    [
        ({"prompt": "a[input]b"}, False),
        ({"prompt": "[input] is a mark"}, True),
        ({"instruction": "a[input]b", "input": "c"}, True),
        ({"messages": [{"role": "user", "content": "a[input]b"}]}, True),
    ],
)
def test_the_mark_is_text_for_a_base_model_and_where_a_half_is_missing_or_there_is_an_input(record, chat):
    assert split_input(record, chat) == record


def test_prompt_files_may_have_both_in_one_string(tmp_path):
    (tmp_path / "p.txt").write_text("找出人物。[input]安娜来了。\n", encoding="utf-8")
    (request,) = read_requests(tmp_path / "p.txt", chat=True, decoding=Decoding())
    assert request.messages == [Message("user", "找出人物。", "安娜来了。")]
    (request,) = read_requests(tmp_path / "p.txt", chat=False, decoding=Decoding())
    assert request.prompt == "找出人物。[input]安娜来了。"


def test_every_case_file_says_how_it_is_run():
    assert sorted(path.stem for path in CASES.glob("*.yaml")) == sorted(SETS)
    for path in CASES.glob("*.yaml"):
        assert f"cases={path.stem}" in path.read_text(encoding="utf-8").partition("cases:")[0]
