"""Files appear complete or not at all, with the sums that any other tool finds."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.shards.atomic import AtomicFiles, FileSum, checksum


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_the_sum_while_writing_is_the_sum_of_the_file(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("sum") / "a.bin"
    with AtomicFiles([path]) as (file,):
        for part in parts:
            file.write(part)
    whole = b"".join(parts)
    assert path.read_bytes() == whole
    assert checksum(path) == FileSum(len(whole), hashlib.sha256(whole).hexdigest())


def test_arrays_are_written_as_their_bytes(tmp_path):
    files = AtomicFiles([tmp_path / "a"])
    with files as (file,):
        file.write(np.array([1, 65535], "<u2"))
        file.write(np.zeros(0, "<u2"))
    assert (tmp_path / "a").read_bytes() == b"\x01\x00\xff\xff"
    assert files.sums == {"a": checksum(tmp_path / "a")}


def test_nothing_has_its_name_before_the_end_and_a_failure_leaves_nothing(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(RuntimeError), AtomicFiles(paths) as (first, _):
        first.write(b"half")
        assert not paths[0].exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "b").write_bytes(b"kept")
    with pytest.raises(UserError, match="b exists: give another output, or overwrite=true"):
        AtomicFiles([tmp_path / "a", tmp_path / "b"], overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    with AtomicFiles([tmp_path / "b"], overwrite=True) as (file,):
        file.write(b"new")
    assert (tmp_path / "b").read_bytes() == b"new"


def test_a_kill_between_two_renames_leaves_no_index_of_what_was_there_before(tmp_path):
    paths = [tmp_path / name for name in ("a.bin", "a.more", "a.idx")]
    for path in paths:
        path.write_bytes(b"old")
    paths[1].unlink()
    paths[1].mkdir()  # no file can be renamed to it
    with pytest.raises(OSError), AtomicFiles(paths) as files:
        for file in files:
            file.write(b"new")
    assert paths[0].read_bytes() == b"new" and not paths[2].exists()
