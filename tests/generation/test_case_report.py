"""Each answer of a case is marked, and a report says the same as a page, as JSON and in one line."""

import json

import pytest

from src.errors import UserError
from src.generation.case_report import CaseReport, judge, output_files, settings_of
from src.generation.engine import Decoding
from src.generation.tasks import Answer, Case

LOOP = "The tea is hot. " * 30
DECODING = Decoding(max_new_tokens=512, num_beams=4, repetition_penalty=1.3)


def result(name: str, text: str, reason: str, tokens: int = 10):
    case = Case(name, {"instruction": "Q"}, DECODING, True, {"temperature": 0.2, "top_p": 0.75})
    return judge(case, Answer(name, "Q", text, reason, 5, tokens))


@pytest.fixture
def report() -> CaseReport:
    results = [result("a", "Paris.", "stop"), result("b", "It is", "length"), result("c", LOOP, "length", 120)]
    return CaseReport(
        "general", {"model": "m", "settings": {"dtype": "float32"}, "versions": {"torch": "2"}}, results, 7.0
    )


def test_an_answer_is_finished_cut_off_or_repeated(report: CaseReport):
    assert [one.mark for one in report.results] == ["finished", "cut off", "repeated"]
    assert report.results[2].repeats_from == len("The tea is hot. ")
    assert result("d", LOOP, "stop").mark == "repeated"


def test_the_summary_counts_marks_and_tokens(report: CaseReport):
    assert report.summary() == "3 cases: 1 finished, 1 cut off, 1 repeated; 140 tokens, 20.0 tokens/s"


def test_settings_that_are_not_the_defaults_are_shown():
    assert settings_of(DECODING) == {"max_new_tokens": 512, "num_beams": 4, "repetition_penalty": 1.3}
    assert settings_of(Decoding()) == {"max_new_tokens": 256}


def test_the_page_has_contents_with_marks_and_every_case_with_its_settings(report: CaseReport):
    page = report.markdown()
    contents, _, cases = page.partition("## a")
    assert "| [c](#case-3) | repeated from character 16, 120 tokens |" in contents
    assert '<a id="case-3"></a>' in page and "dtype float32" in contents
    assert cases.count("beams 4, repetition penalty 1.3") == 3
    assert "KnowLM also passed temperature 0.2, top_p 0.75: without effect" in cases
    assert LOOP in cases and "```\nQ\n```" in cases


def test_the_page_keeps_answers_that_hold_fences():
    page = CaseReport("x", {}, [result("a", "```py\nx\n```", "stop")]).markdown()
    assert "````\n```py\nx\n```\n````" in page


def test_a_name_without_an_ending_makes_a_page_and_json_that_say_the_same(report: CaseReport, tmp_path):
    page, data = report.write(tmp_path / "new" / "cases")
    assert (page.name, data.name) == ("cases.md", "cases.json")
    found = json.loads(data.read_text(encoding="utf-8"))
    assert list(found) == ["cases", "model", "settings", "versions", "summary", "results"]
    assert found["summary"] == {"finished": 1, "cut off": 1, "repeated": 1, "seconds": 7.0}
    assert found["results"][2]["repeats_from"] == 16 and found["results"][2]["settings"]["num_beams"] == 4
    assert page.read_text(encoding="utf-8") == report.markdown()


def test_lines_of_json_hold_one_result_each(report: CaseReport, tmp_path):
    (file,) = report.write(tmp_path / "cases.jsonl")
    assert [json.loads(line)["id"] for line in file.read_text(encoding="utf-8").splitlines()] == ["a", "b", "c"]


def test_another_ending_is_refused():
    with pytest.raises(UserError, match=r"output=cases\.txt must end in \.md, \.json, \.jsonl"):
        output_files("cases.txt")
