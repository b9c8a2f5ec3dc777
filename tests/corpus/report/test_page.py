"""The page holds what the report holds, whatever the documents say, and needs nothing but itself."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.corpus.report import CorpusReport, SourceReport, write_report
from src.corpus.report.page import read_report, render, stages
from src.corpus.steps import Dropped, StepReport
from src.shards.manifest import Counts

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Outline(HTMLParser):
    """Checks that every element is closed in order, and gathers tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def with_text(text: str) -> CorpusReport:
    examples = [{"id": text, "why": text, "text": text}]
    step = StepReport("quality", 1, 9, 0, 0, dropped={"too_short": Dropped(1, 9, examples)})
    return CorpusReport("demo", settings={"path": text}, sources={text: SourceReport(text, records=1, steps=[step])})


def test_every_element_is_closed_in_order(report):
    assert {"svg", "table", "details", "figure"} <= outline(render(report)).tags


def test_the_page_loads_nothing_and_runs_nothing(report):
    html = render(report)
    assert "script" not in outline(html).tags
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\(""", html)


def test_a_script_in_a_document_is_shown_not_run():
    evil = "<script>alert('汉字')</script>\"'&</pre>"
    html = render(with_text(evil))
    found = outline(html)
    assert "script" not in found.tags
    assert evil in found.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.text(st.characters(), max_size=20))
def test_no_text_breaks_the_page_or_the_file(tmp_path, text):
    report = with_text(text + "\x00\ud800\u2028")
    outline(render(report))
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_numbers_of_every_source_are_on_the_page(report):
    text = outline(render(report)).text
    source = report.sources["zh"]
    for expected in (f"{source.total.tokens:,}", "too_short", "790", "床前明月光", "99.4", "e_mails".replace("_", " ")):
        assert expected in text


def test_both_files_are_written_whole(report, tmp_path):
    write_report(report, tmp_path / "shards")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["report.html", "report.json"]
    assert "床前明月光" in (tmp_path / "shards" / "report.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "shards" / "report.json").read_bytes()) == report.to_dict()


def test_documents_grow_fewer_stage_by_stage_down_to_the_shards(source):
    found = stages(source)
    names = ["records", "readable", "normalise", "quality", "private", "exact duplicates", "near duplicates", "shards"]
    assert [stage.name for stage in found] == names
    assert all(a.documents - b.left_out == b.documents for a, b in pairwise(found))


def test_a_source_without_cleaning_or_text_makes_a_page_too():
    empty, plain = SourceReport("empty"), SourceReport("plain", max_length=8, records=1)
    plain.splits = {"train": Counts(1, 1, 8, 20)}
    page = render(CorpusReport("demo", sources={"empty": empty, "plain": plain}))
    assert outline(page) and "plain" in page and "empty" in page
    assert outline(render(CorpusReport("nothing")))
