"""What the tables of ``inspect`` are made of is counted right."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from src.errors import UserError
from src.shards.collection import open_collection
from src.shards.summary import frequent_table, length_table, overview_table, sample, summarise
from tests.shards.shard_cases import DOCUMENTS, Letters, make_source, write


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=30), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_counts_and_quantiles_are_those_of_the_segments(tmp_path_factory, segments):
    prefix = write(tmp_path_factory.mktemp("s") / "a", [[segment] for segment in segments])
    summary = summarise(open_collection(prefix), "train")
    ids = [index for segment in segments for index in segment]
    lengths = sorted(map(len, segments))
    assert (summary.segments, summary.tokens, summary.documents) == (len(segments), len(ids), len(segments))
    assert summary.ids.tolist() == np.bincount(ids).tolist()
    assert summary.quantile(0.5) == lengths[-(-len(lengths) // 2) - 1] and summary.quantile(1.0) == lengths[-1]
    bars = summary.histogram()
    assert [sum(low <= length <= high for length in lengths) for low, high, _ in bars] == [count for *_, count in bars]


def test_one_split_is_read_over_its_files(tmp_path):
    collection = open_collection(make_source(tmp_path, files=2))
    summary = summarise(collection, "train")
    assert (summary.files, summary.documents, summary.segments, summary.limit) == (2, 10, 12, 4)
    with pytest.raises(UserError, match="has no test shards, only: train, validation"):
        summarise(collection, "test")


def test_a_sample_is_counted_over_the_files(tmp_path):
    collection = open_collection(make_source(tmp_path, files=2))
    segments = [segment for document in DOCUMENTS * 2 for segment in document]
    assert [sample(collection, "train", number).tolist() for number in range(12)] == segments
    for outside in (-1, 12):
        with pytest.raises(UserError, match=f"sample={outside} is outside the 12 segments .* give 0 to 11"):
            sample(collection, "train", outside)


def test_ids_of_no_vocabulary_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds id 1000000000 .* which no vocabulary has"):
        summarise(open_collection(write(tmp_path / "a", [[[1, 10**9]]], np.int32)), "")


def test_the_tables_show_what_was_counted(tmp_path):
    collection = open_collection(make_source(tmp_path))
    summary = summarise(collection, "train")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(overview_table(collection, "train", summary, Letters()))
    console.print(length_table(summary))
    console.print(frequent_table(summary, Letters()))
    text = console.export_text()
    for shown in ("megatron, uint16, 1 file", "1 to 299, 10 different", "<s43>", "letters", "mean 2"):
        assert shown in text, shown


def test_an_empty_shard_has_tables_too(tmp_path):
    collection = open_collection(write(tmp_path / "a", []))
    summary = summarise(collection, "")
    console = Console(width=100, record=True, file=io.StringIO())
    for table in (overview_table(collection, "", summary, None), length_table(summary), frequent_table(summary, None)):
        console.print(table)
    assert summary.tokens == 0
