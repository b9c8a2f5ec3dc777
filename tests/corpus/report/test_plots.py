"""Pictures show every bin that counts something, and numbers stay short."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.report import Histogram
from src.corpus.report.plots import FlowStage, bars, flow, megabytes, percent, share_bar, short


def rectangles(svg: str) -> list[float]:
    return [float(r.get("height")) for r in ET.fromstring(svg).iter() if r.tag.endswith("rect")]


@given(st.lists(st.integers(0, 10**9), min_size=64, max_size=64).filter(any), st.integers(1, 4096))
def test_the_tallest_bar_is_the_fullest_bin(counts, max_length):
    histogram = Histogram.of_lengths(max_length, counts)
    wide = [c for c, low, high in zip(counts, histogram.edges, histogram.edges[1:], strict=False) if high > low]
    heights = rectangles(bars(histogram, "lengths", "tokens"))
    assert len(heights) == len(wide)
    assert heights[wide.index(max(wide))] == max(heights)


def test_empty_ends_of_a_histogram_of_sizes_are_left_off():
    counts = [0] * 40
    counts[5], counts[8] = 3, 1
    assert len(rectangles(bars(Histogram.of_sizes(counts), "sizes", "tokens", logarithmic=True))) == 4


def test_a_histogram_of_nothing_is_no_picture():
    assert bars(Histogram.of_sizes(), "sizes", "tokens") == ""
    assert bars(Histogram(), "sizes", "tokens") == ""


def test_the_flow_names_every_stage_and_what_it_leaves_out():
    svg = flow([FlowStage("records", 1000, 10**6), FlowStage("<quality>", 900, 9 * 10**5, 100)])
    text = "".join(ET.fromstring(svg).itertext())
    assert "<quality>" in text and "−100 (10.0%)" in text
    assert flow([FlowStage("records", 0, 0)]) == ""


def test_a_share_bar_is_as_long_as_the_share():
    assert 'width="25.00"' in share_bar(0.25)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (950, "950"), (9980, "9.98k"), (999_499, "999k"), (999_999, "1M"), (1_234_567, "1.23M")],
)
def test_numbers_are_shortened(number, expected):
    assert short(number) == expected


@pytest.mark.parametrize(("size", "expected"), [(12, "12 B"), (4200, "4.2 kB"), (1.05e12, "1.05 TB")])
def test_sizes_have_the_unit_that_suits(size, expected):
    assert megabytes(size) == expected


@pytest.mark.parametrize(
    ("part", "expected"), [(0, "0.0%"), (1, "<0.1%"), (500, "5.0%"), (9999, "99.99%"), (10000, "100.0%")]
)
def test_a_share_is_told_from_nothing_and_from_all(part, expected):
    assert percent(part, 10000) == expected
