"""The counts of parts add up in any grouping, survive JSON, and notice a document that got lost."""

import json
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.report import (
    BadExample,
    BadRecords,
    CorpusReport,
    DuplicateExample,
    Duplicates,
    Histogram,
    SourceReport,
)
from src.corpus.steps import Dropped, StepReport
from src.shards.manifest import Counts

numbers = st.integers(0, 10**12)
names = st.sampled_from(["a", "b", "c"])
seconds = st.integers(0, 1000).map(lambda quarters: quarters / 4)  # which add up without rounding
texts = st.text(max_size=5)
examples = st.lists(st.fixed_dictionaries({"id": texts, "why": texts, "text": texts}), max_size=5)
dropped = st.builds(Dropped, numbers, numbers, examples)
steps = st.builds(
    StepReport,
    names,
    *[numbers] * 5,
    dropped=st.dictionaries(names, dropped, max_size=2),
    counters=st.dictionaries(names, numbers, max_size=2),
)
bad = st.builds(BadRecords, numbers, st.lists(st.builds(BadExample, texts, texts, texts), max_size=5))
histograms = st.one_of(
    st.just(Histogram()), st.lists(numbers, min_size=64, max_size=64).map(lambda c: Histogram.of_lengths(512, c))
)
twins = st.builds(Duplicates, numbers, numbers, st.lists(st.builds(DuplicateExample, texts, texts, texts), max_size=5))
sources = st.builds(
    SourceReport,
    st.just("zh"),
    st.just("zh"),
    st.just(512),
    *[numbers] * 3,
    bad=st.dictionaries(names, bad, max_size=2),
    replaced=numbers,
    lost_bytes=numbers,
    empty=numbers,
    steps=st.lists(steps, max_size=4),
    duplicates=st.dictionaries(st.sampled_from(["exact", "near"]), twins),
    splits=st.dictionaries(st.sampled_from(["train", "validation"]), st.builds(Counts, *[numbers] * 4)),
    segment_tokens=histograms,
    packed_rows=numbers,
    cpu_seconds=seconds,
)
corpora = st.builds(
    CorpusReport,
    st.just("demo"),
    st.sampled_from(["", "2025-01-01", "2025-01-02"]),
    seconds,
    seconds,
    st.sampled_from(["", "local"]),
    st.dictionaries(names, numbers, max_size=2),
    st.fixed_dictionaries({}, optional={"zh": sources}),
)


@settings(max_examples=40)
@given(sources, sources, sources)
def test_parts_of_a_source_add_up_in_any_grouping(a, b, c):
    assert (a + b) + c == a + (b + c)


@settings(max_examples=40)
@given(corpora, corpora, corpora)
def test_reports_of_a_corpus_add_up_in_any_grouping(a, b, c):
    assert (a + b) + c == a + (b + c)


@settings(max_examples=40)
@given(sources)
def test_a_fresh_report_of_a_source_changes_nothing(part):
    assert SourceReport("zh") + part == part == part + SourceReport("zh")


@settings(max_examples=40)
@given(sources, sources)
def test_adding_leaves_both_summands_as_they_were(a, b):
    before = deepcopy((a, b))
    _ = a + b
    assert (a, b) == before


@settings(max_examples=40)
@given(corpora)
def test_a_report_comes_back_from_json_equal(report):
    assert CorpusReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_examples_are_the_first_five_in_the_order_of_the_parts():
    parts = [BadRecords(2, [BadExample("f", str(line), "r") for line in (i, i + 1)]) for i in (0, 10, 20)]
    total = parts[0] + parts[1] + parts[2]
    assert total.records == 6
    assert [example.place for example in total.examples] == ["0", "1", "10", "11", "20"]


def test_two_steps_of_one_name_stay_two():
    part = SourceReport("zh", steps=[StepReport("filter", 10), StepReport("filter", 7)])
    assert [step.documents_in for step in (part + part).steps] == [20, 14]


def test_a_source_whose_records_are_all_accounted_for_is_in_balance(source):
    source.check_balance()


@pytest.mark.parametrize("lost", ["records", "empty"])
def test_a_lost_document_is_an_error_with_the_numbers(source, lost):
    setattr(source, lost, getattr(source, lost) + 1)
    report = CorpusReport("demo", sources={"zh": source})
    with pytest.raises(RuntimeError, match=r"'zh' does not add up: 1000\d records .* 870 dropped \+ 550 duplicates"):
        report.check_balance()


def test_a_step_that_swallows_a_document_is_named(source):
    source.steps[1].documents_out -= 1
    with pytest.raises(RuntimeError, match="step 'quality' of source 'zh'"):
        source.check_balance()


def test_repeated_paragraphs_leave_out_no_documents(source):
    assert source.duplicate_documents == 400 + 150


@given(st.integers(1, 5000), st.data())
def test_a_length_lies_between_the_edges_of_its_bin(max_length, data):
    length = data.draw(st.integers(1, max_length))
    edges = Histogram.of_lengths(max_length).edges
    place = (length - 1) * 64 // max_length
    assert edges[place] <= length < edges[place + 1]


@given(st.integers(0, 2**39 - 1))
def test_a_size_lies_between_the_edges_of_its_bin(size):
    edges = Histogram.of_sizes().edges
    assert edges[size.bit_length()] <= size < edges[size.bit_length() + 1]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_the_median_bin_holds_the_lower_median(values):
    counts = np.bincount([value.bit_length() for value in values], minlength=40).tolist()
    lower_median = sorted(values)[(len(values) - 1) // 2]
    assert Histogram.of_sizes(counts).median_bin() == lower_median.bit_length()


def test_histograms_of_different_limits_cannot_be_added():
    with pytest.raises(ValueError, match="max_length"):
        Histogram.of_lengths(512) + Histogram.of_lengths(1024)


def test_reports_of_different_sources_cannot_be_added():
    with pytest.raises(ValueError, match="different sources"):
        SourceReport("zh") + SourceReport("en")


def test_fill_is_the_share_of_positions_that_hold_tokens():
    source = SourceReport("zh", max_length=100, splits={"train": Counts(2, 4, 200, 600)}, packed_rows=2)
    assert source.fill == 0.5
    assert source.packed_fill == 1.0
    assert SourceReport("zh").packed_fill is None
