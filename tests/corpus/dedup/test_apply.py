"""Leaving out: counted, with the document that stays named, and lossless otherwise."""

import pickle

import pytest
from datatrove.data import Document

from src.corpus.dedup.apply import DropDuplicates
from src.corpus.dedup.buckets import FindDuplicates
from src.corpus.dedup.resolve import ResolveDuplicates
from src.corpus.dedup.settings import DedupSettings, MinHashSettings, ParagraphSettings
from src.corpus.dedup.signatures import StoreSignatures
from src.errors import UserError

BASE = " ".join(f"w{i}" for i in range(300))


def test_what_is_dropped_names_what_stays(deduplicate, tmp_path):
    parts = [["other", BASE, BASE], [BASE + " end", "x"]]
    report = deduplicate(tmp_path, parts, DedupSettings(True, MinHashSettings())).report
    exact, near = report.dropped["exact_duplicate"], report.dropped["near_duplicate"]
    assert (exact.documents, near.documents) == (1, 1)
    assert exact.examples[0]["id"] == "0:2"
    assert exact.examples[0]["why"] == "the same as 0:1"
    assert near.examples[0]["why"] == "nearly the same as document 1 of part 0"
    assert report.documents_in == 5 and report.documents_out == 3
    assert report.bytes_in == report.bytes_out + exact.bytes + near.bytes


def test_lines_are_taken_out_and_nothing_else_changes(deduplicate, tmp_path):
    line = "this line comes again"
    text = f"\r\n  {line}  \r\n\n\tshort\u2028short\n{line}\n"
    outcome = deduplicate(tmp_path, [[line, text]], DedupSettings(paragraphs=ParagraphSettings(12)))
    assert outcome.texts == [line, "\r\n\n\tshort\u2028short\n"]
    assert outcome.report.counters == {"paragraphs": 2}
    assert outcome.report.changed == 1
    assert outcome.report.bytes_out == len(line) + len(outcome.texts[1].encode())


def test_a_document_of_repeated_lines_only_is_dropped_and_counted(deduplicate, tmp_path):
    line = "this line comes again"
    outcome = deduplicate(tmp_path, [[line, f"\n{line}\n\n{line}"]], DedupSettings(paragraphs=ParagraphSettings(12)))
    assert outcome.ids == ["0:0"]
    dropped = outcome.report.dropped["repeated_paragraphs"]
    assert dropped.documents == 1
    assert dropped.examples == [{"id": "0:1", "why": "all 2 came before", "text": f"\n{line}\n\n{line}"}]


@pytest.mark.parametrize("texts", [[BASE], [BASE, "short"]])
def test_other_documents_than_those_compared_are_an_error(deduplicate, tmp_path, texts):
    settings = DedupSettings(exact=True, paragraphs=ParagraphSettings(6))
    deduplicate(tmp_path, [[BASE, "first line\nfirst line\nfirst line"]], settings)
    with pytest.raises(UserError, match="part 0"):
        list(DropDuplicates(tmp_path).run(Document(text, "") for text in texts))


def test_the_steps_can_be_sent_to_another_machine(tmp_path):
    settings = DedupSettings(True, MinHashSettings(), ParagraphSettings())
    steps = [
        StoreSignatures(tmp_path, settings, "zh", 3),
        FindDuplicates(tmp_path, settings, 4, 2),
        ResolveDuplicates(tmp_path, settings, ["zh"] * 4, 2),
        DropDuplicates(tmp_path, 3),
    ]
    assert [vars(step).keys() for step in pickle.loads(pickle.dumps(steps))] == [vars(step).keys() for step in steps]
    assert all(len(pickle.dumps(step)) < 2000 for step in steps)
