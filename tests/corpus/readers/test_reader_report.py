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


def test_the_first_examples_of_every_reason_are_kept_in_the_order_they_came():
    report, rare = ReadReport(), ReadReport()
    for line in range(100):
        report.add_bad("a", str(line), "not JSON")
        if line in (2, 50):
            report.add_bad("a", str(line), "no field 'text'")
    rare.add_bad("b", "1", "too long")
    places = [str(line) for line in [0, 1, 2, 2, 3, 4, 50]]
    assert [example.place for example in report.examples] == places
    assert MAX_EXAMPLES == 5
    total = report + rare + report
    assert [example.place for example in total.examples] == [*places, "1", "2", "50"]
    assert (report.records, total.records) == (102, 205)
