"""Reports are added up and survive JSON."""

import json

from src.corpus.readers import ReadReport
from src.corpus.readers.report import MAX_EXAMPLES


def test_a_report_is_the_same_after_json_and_adds_up():
    one = ReadReport(records=3, documents=2, replaced=1, input_bytes=10, position=10, lost_bytes=4)
    one.add_bad("a.jsonl", "2", "not JSON")
    one.skipped["status 404"] += 2
    assert ReadReport.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    total = one + one
    assert (total.records, total.bad, total.skipped) == (8, {"not JSON": 2}, {"status 404": 4})
    assert (total.lost_bytes, total.position) == (8, 20)
    assert [str(example) for example in total.examples] == ["a.jsonl:2: not JSON"] * 2


def test_only_the_first_examples_are_kept():
    report = ReadReport()
    for line in range(100):
        report.add_bad("a", str(line), "not JSON")
    assert len(report.examples) == len((report + report).examples) == MAX_EXAMPLES
    assert report.records == 100
