"""Streams over spans: blocks join to the whole, documents are renumbered, damage and overflow are errors."""

import numpy as np
import pytest

from src.errors import UserError
from src.shards import token_file
from src.shards.format import Shard
from src.shards.token_file import Span, converted, document_blocks, length_blocks, token_blocks
from tests.shards.shard_cases import DOCUMENTS, write


@pytest.fixture(params=[1, 2, 1000])
def small_blocks(request, monkeypatch):
    monkeypatch.setattr(token_file, "BLOCK_SEGMENTS", request.param)
    monkeypatch.setattr(token_file, "BLOCK_TOKENS", request.param)


def test_spans_read_as_one_shard_whatever_the_block_size(tmp_path, small_blocks):
    shard = Shard(write(tmp_path / "a"))
    spans = [Span(shard, 1, 3), Span.whole(shard)]
    seen = []
    ids = np.concatenate(list(token_blocks(spans, np.dtype(np.int32), seen.append)))
    assert ids.tolist() == [299, 1, 2, 3, 4, 299, 7, 8, 9, 5, 6] and ids.dtype == np.int32
    assert sum(seen) == 11
    assert np.concatenate(list(length_blocks(spans))).tolist() == [1, 3, 1, 1, 2, 1, 2]
    assert np.concatenate(list(document_blocks(spans))).tolist() == [0, 1, 1, 3, 4, 4, 6]


def test_a_span_of_no_documents_is_empty(tmp_path):
    shard = Shard(write(tmp_path / "a"))
    span = Span(shard, 2, 2)
    assert len(span.tokens) == len(span.segments) == 0
    assert not list(token_blocks([span])) and not list(length_blocks([span]))
    assert span.groups == [0] and Span.whole(shard).groups == [6]


def test_segments_that_do_not_follow_one_another_are_named(tmp_path, small_blocks):
    prefix = write(tmp_path / "a")
    raw = bytearray(prefix.with_suffix(".idx").read_bytes())
    raw[34 + 24 + 2 * 8] ^= 2  # the third pointer
    prefix.with_suffix(".idx").write_bytes(raw)
    with pytest.raises(UserError, match="damaged at segment 2"):
        list(length_blocks([Span.whole(Shard(prefix))]))


def test_documents_that_go_back_are_named(tmp_path, small_blocks):
    prefix = write(tmp_path / "a")
    raw = bytearray(prefix.with_suffix(".idx").read_bytes())
    raw[34 + 12 * 6 + 2 * 8] = 0  # the third document, which starts at segment 3
    prefix.with_suffix(".idx").write_bytes(raw)
    with pytest.raises(UserError, match="damaged at document 2"):
        list(document_blocks([Span.whole(Shard(prefix))]))


@pytest.mark.parametrize(("value", "dtype"), [(65536, np.uint16), (-1, np.uint16), (2**31, np.int32)])
def test_an_id_that_does_not_fit_is_refused_and_never_wrapped(tmp_path, value, dtype):
    with pytest.raises(UserError, match=f"token id {value} of .*a does not fit"):
        converted(np.array([1, value], np.int64), np.dtype(dtype), tmp_path / "a")
    assert converted(np.array([1, 2], np.int64), np.dtype(dtype), tmp_path / "a").tolist() == [1, 2]


def test_a_file_cut_short_after_opening_is_an_error(tmp_path):
    shard = Shard(write(tmp_path / "a", DOCUMENTS * 2000))
    shard.tokens_path.write_bytes(b"\x00" * 10)
    with pytest.raises(UserError, match="ends before its index says"):
        list(token_blocks([Span.whole(shard)]))
