"""Files of keys: ranges cover every record once, and a file is whole or not there."""

import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.dedup.records import (
    KEY_SPACE,
    KEYS,
    RecordWriter,
    by_key_range,
    global_ids,
    open_records,
    sort_records,
    split_id,
    write_records,
)
from src.errors import UserError

MINHASH = KEYS["minhash"]
KEY = st.integers(0, KEY_SPACE - 1) | st.sampled_from([0, 1, KEY_SPACE // 2, KEY_SPACE - 1])


def records(keys, kind="minhash"):
    made = np.zeros(len(keys), KEYS[kind])
    made["key"] = np.array(keys, np.uint64)
    made["document"] = np.arange(len(keys))
    return made


@given(
    files=st.lists(st.lists(KEY, max_size=30), min_size=1, max_size=4),
    buckets=st.integers(1, 5),
    max_records=st.integers(1, 40),
)
def test_ranges_give_every_record_once_and_equal_keys_together(tmp_path_factory, files, buckets, max_records):
    folder = tmp_path_factory.mktemp("keys")
    paths = [folder / str(index) for index in range(len(files))]
    for path, keys in zip(paths, files, strict=True):
        write_records(path, sort_records(records(keys)))
    pieces = []
    for bucket in range(buckets):
        low, high = (KEY_SPACE * border // buckets for border in (bucket, bucket + 1))
        pieces += list(by_key_range(paths, MINHASH, low, high, max_records))
    for index, keys in enumerate(files):
        found = [piece[index] for piece in pieces]
        assert np.array_equal(np.concatenate(found), sort_records(records(keys)))
    seen = [set(np.concatenate(piece)["key"].tolist()) for piece in pieces]
    assert sum(map(len, seen)) == len(set().union(*seen)) == len({key for keys in files for key in keys})


def test_sorting_uses_both_halves_of_a_key_and_keeps_the_order_of_equal_ones():
    made = records([5, 5, 1, 5], "exact")
    made["low"] = [2, 1, 9, 1]
    assert sort_records(made)["document"].tolist() == [2, 1, 3, 0]


def test_global_ids_are_taken_apart_again():
    identifier = int(global_ids(70_000, np.array([4_000_000_000], np.uint32))[0])
    assert split_id(identifier) == (70_000, 4_000_000_000)


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "keys"
    write_records(path, records([1, 2]))
    with pytest.raises(RuntimeError), RecordWriter(path) as writer:
        writer.write(records([3]))
        raise RuntimeError
    assert open_records(path, MINHASH)["key"].tolist() == [1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        open_records(tmp_path / "absent", MINHASH)
    (tmp_path / "cut").write_bytes(b"12345")
    with pytest.raises(UserError, match="is damaged"):
        open_records(tmp_path / "cut", MINHASH)


def test_many_more_files_than_may_be_open_are_read(tmp_path):
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = [tmp_path / str(index) for index in range(120)]
    for path in paths:
        write_records(path, records([7]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        pieces = list(by_key_range(paths, MINHASH, max_records=10))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    assert sum(len(found) for piece in pieces for found in piece) == 120
