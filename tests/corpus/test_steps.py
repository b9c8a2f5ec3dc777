"""Steps count what they do, ours and datatrove's own alike."""

from collections.abc import Iterable
from dataclasses import asdict

from datatrove.data import Document
from datatrove.pipeline.filters import LambdaFilter
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.steps import MAX_EXAMPLES, CleaningStep, Counted, Drop, StepReport, counted, utf8_size


class Shout(CleaningStep):
    name = "shout"

    def apply(self, text: str) -> str | Drop:
        if len(text) > 5:
            return Drop("too_long", f"{len(text)} > 5")
        return text.upper()


def run(step: CleaningStep | Counted, texts: Iterable[str]) -> list[str]:
    documents = (Document(text, f"raw:{number}") for number, text in enumerate(texts))
    return [document.text for document in step.run(documents)]


def test_a_cleaning_step_counts_what_it_changes_and_drops() -> None:
    step = Shout()
    assert run(step, ["a", "B", "far too long", "é"]) == ["A", "B", "É"]
    report = step.report
    assert (report.documents_in, report.documents_out, report.changed) == (4, 3, 2)
    assert (report.bytes_in, report.bytes_out) == (1 + 1 + 12 + 2, 1 + 1 + 2)
    assert report.dropped["too_long"].examples == [{"id": "raw:2", "why": "12 > 5", "text": "far too long"}]


def test_examples_are_few() -> None:
    step = Shout()
    run(step, ["too long"] * 20)
    assert step.report.dropped["too_long"].documents == 20
    assert len(step.report.dropped["too_long"].examples) == MAX_EXAMPLES


def test_a_filter_of_datatrove_is_counted_from_outside() -> None:
    step = counted("no_x", LambdaFilter(lambda document: "x" not in document.text))
    assert run(step, ["x", "a", "xx", "xxx", "b", "x"]) == ["a", "b"]
    report = step.report
    assert (report.name, report.documents_in, report.documents_out) == ("no_x", 6, 2)
    assert report.dropped["lambda_filter"].documents == 4
    assert report.dropped["lambda_filter"].bytes == 1 + 2 + 3 + 1
    assert [example["id"] for example in report.dropped["lambda_filter"].examples] == [
        "raw:0",
        "raw:2",
        "raw:3",
        "raw:5",
    ]


@given(st.lists(st.text(max_size=10)), st.integers(0, 10))
def test_reports_of_two_halves_add_up_to_the_whole(texts: list[str], half: int) -> None:
    whole, first, second = Shout(), Shout(), Shout()
    documents = [Document(text, str(number)) for number, text in enumerate(texts)]
    for step, part in ((whole, documents), (first, documents[:half]), (second, documents[half:])):
        list(step.run([Document(document.text, document.id) for document in part]))
    assert first.report + second.report == whole.report
    assert StepReport.from_dict(asdict(whole.report)) == whole.report


@given(st.text())
def test_utf8_size_is_the_length_in_bytes(text: str) -> None:
    assert utf8_size(text) == len(text.encode("utf-8", "surrogatepass"))
