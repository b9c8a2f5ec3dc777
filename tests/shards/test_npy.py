"""NumPy files of token ids: streams, rows, sidecars, and what is not one."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.shards import npy, token_file
from src.shards.format import Shard
from src.shards.npy import NpyTokens, write_npy
from src.shards.token_file import Span
from tests.shards.shard_cases import contents, write


def saved(path, array):
    np.save(path, array)
    return path


def test_a_matrix_is_one_segment_a_row(tmp_path):
    tokens = NpyTokens(saved(tmp_path / "a.npy", np.arange(12, dtype=np.int32).reshape(3, 4)))
    assert contents(tokens) == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9, 10, 11]]]
    assert tokens.dtype == np.int32 and not tokens.segment(0).flags.writeable


def test_a_stream_is_one_segment_or_rows_of_a_given_length(tmp_path):
    path = saved(tmp_path / "a.npy", np.arange(7, dtype=np.uint16))
    assert contents(NpyTokens(path)) == [[[0, 1, 2, 3, 4, 5, 6]]]
    rows = NpyTokens(path, row_length=3)
    assert contents(rows) == [[[0, 1, 2]], [[3, 4, 5]], [[6]]]
    assert contents(pickle.loads(pickle.dumps(rows))) == contents(rows)


def test_an_empty_stream_has_no_segments(tmp_path):
    assert contents(NpyTokens(saved(tmp_path / "a.npy", np.zeros(0, np.uint16)))) == []


def test_lengths_beside_a_stream_are_its_segments(tmp_path):
    path = saved(tmp_path / "a.npy", np.arange(6, dtype=np.uint16))
    saved(tmp_path / "a.lengths.npy", np.array([1, 0, 5], np.uint16))
    assert contents(NpyTokens(path)) == [[[0]], [[]], [[1, 2, 3, 4, 5]]]
    saved(tmp_path / "a.documents.npy", np.array([0, 2]))
    assert contents(NpyTokens(path)) == [[[0], []], [[1, 2, 3, 4, 5]]]


@given(st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=6), max_size=4), max_size=6), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost_on_the_way_there_and_back(tmp_path_factory, documents, block):
    folder = tmp_path_factory.mktemp("npy")
    shard = Shard(write(folder / "m", documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_file, "BLOCK_SEGMENTS", block)
        patch.setattr(npy, "BLOCK_SEGMENTS", block)
        write_npy(folder / "n.npy", [Span.whole(shard)])
        tokens = NpyTokens(folder / "n.npy")
        assert contents(tokens) == documents
    assert np.load(folder / "n.npy").tolist() == shard.tokens.tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, np.float32), "holds float32"),
        (np.zeros((2, 2, 2), np.uint16), r"shape \[2, 2, 2\]"),
        (np.asfortranarray(np.zeros((2, 3), np.uint16)), "C order"),
        (np.array([{}], object), "not a whole NumPy file"),
    ],
)
def test_what_holds_no_token_ids_is_named(tmp_path, array, message):
    with pytest.raises(UserError, match=message):
        NpyTokens(saved(tmp_path / "a.npy", array))


def test_damage_is_named(tmp_path):
    path = saved(tmp_path / "a.npy", np.arange(1000, dtype=np.uint16))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="not a whole NumPy file"):
        NpyTokens(path)
    path.write_bytes(whole)
    saved(tmp_path / "a.lengths.npy", np.array([999]))
    with pytest.raises(UserError, match=r"speaks of 999 tokens, .* has 1000"):
        NpyTokens(path)
    saved(tmp_path / "a.lengths.npy", np.array([0.5]))
    with pytest.raises(UserError, match=r"a\.lengths\.npy holds float64"):
        NpyTokens(path)
    with pytest.raises(UserError, match="does not exist"):
        NpyTokens(tmp_path / "b.npy")
    (tmp_path / "a.lengths.npy").unlink()
    with pytest.raises(UserError, match="row_length=0"):
        NpyTokens(path, row_length=0)
