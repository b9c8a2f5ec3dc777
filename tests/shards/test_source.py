"""A source joins its shards in order and refuses a folder that is not what its manifest says."""

import pickle
import resource

import numpy as np
import pytest

from src.errors import UserError
from src.shards.format import ShardWriter
from src.shards.manifest import Counts, Manifest
from src.shards.source import Source


@pytest.fixture
def folder(tmp_path):
    for number, segments in enumerate([[[1, 2], [3]], [], [[4, 5, 6]]]):
        with ShardWriter(tmp_path / f"train-{number:05d}", np.uint16) as writer:
            writer.add_document([np.array(segment) for segment in segments])
    Manifest("zh", "t", "f" * 64, 300, 1024, "uint16", splits={"train": Counts(2, 3, 6, 20)}).save(tmp_path)
    return tmp_path


def test_segments_run_on_over_the_shards(folder):
    source = Source.open(folder)
    assert source.name == "zh" and len(source) == 3
    assert source.lengths.dtype == np.int32 and source.lengths.tolist() == [2, 1, 3]
    assert [source.segment(i).tolist() for i in range(3)] == [[1, 2], [3], [4, 5, 6]]
    assert not source.segment(0).flags.writeable
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            source.segment(outside)


def test_rows_are_gathered_over_the_shards_in_the_order_asked_for(folder):
    source = Source.open(folder)
    asked = np.array([2, 0, 1, 2])
    assert source.lengths_of(asked).tolist() == [3, 2, 1, 3]
    assert source.gather(asked, 2).tolist() == [[4, 5], [1, 2], [3, 0], [4, 5]]
    out = np.zeros((4, 3), np.uint16)
    assert source.gather(asked, 3, out, pad_id=9) is out
    assert out.tolist() == [[4, 5, 6], [1, 2, 9], [3, 9, 9], [4, 5, 6]]
    for outside in ([-1], [0, 3]):
        with pytest.raises(IndexError):
            source.gather(np.array(outside), 2)


def test_lengths_are_not_put_together_before_they_are_asked_for(folder):
    source = Source.open(folder)
    source.segment(2), source.lengths_of(np.array([0]))
    assert "lengths" not in vars(source)


def test_more_shards_open_than_the_soft_limit_of_files(folder):
    empty = [(folder / "train-00001").with_suffix(suffix).read_bytes() for suffix in (".idx", ".bin")]
    for number in range(3, 400):
        for suffix, data in zip((".idx", ".bin"), empty, strict=True):
            (folder / f"train-{number:05d}{suffix}").write_bytes(data)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        assert Source.open(folder).segment(2).tolist() == [4, 5, 6]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_source_can_be_sent_to_a_worker_process(folder):
    message = pickle.dumps(Source.open(folder))
    assert b"manifest" not in message and pickle.loads(message).segment(2).tolist() == [4, 5, 6]


def test_a_missing_split_or_shard_is_an_error(folder):
    with pytest.raises(UserError, match="no validation shards, only: train"):
        Source.open(folder, "validation")
    (folder / "train-00002.idx").unlink()
    with pytest.raises(UserError, match="2 train segments where its manifest counts 3"):
        Source.open(folder)
