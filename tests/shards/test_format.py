"""The shard format: byte layout, round trip, refusal of what does not fit, and damage found on opening."""

import pickle
import struct
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.shards.format import Shard, ShardWriter, token_dtype

DOCUMENTS = [[[1, 2, 3], [4]], [[65535]], [], [[7, 8], [], [9]]]


def write(prefix, documents=DOCUMENTS, dtype=np.uint16):
    with ShardWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document([np.array(segment, dtype=np.int64) for segment in document])
    return prefix


def read(prefix):
    shard = Shard(prefix)
    ends = shard.document_indices
    return [[shard.segment(i).tolist() for i in range(ends[d], ends[d + 1])] for d in range(shard.documents)]


def test_the_files_have_the_documented_layout_byte_for_byte(tmp_path):
    write(tmp_path / "a")
    lengths = [3, 1, 1, 2, 0, 1]
    pointers = [0, 6, 8, 10, 14, 14]
    documents = [0, 2, 3, 3, 6]
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 6, 5)
    index += struct.pack("<6i", *lengths) + struct.pack("<6q", *pointers) + struct.pack("<5q", *documents)
    assert (tmp_path / "a.idx").read_bytes() == index
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<8H", 1, 2, 3, 4, 65535, 7, 8, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx"]


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=9), max_size=5), max_size=6),
    dtype=st.sampled_from([np.uint16, np.int32]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, documents, dtype):
    prefix = write(tmp_path_factory.mktemp("shard") / "s", documents, dtype)
    assert read(prefix) == documents
    shard = Shard(prefix)
    assert shard.lengths.dtype == np.int32 and shard.offsets.dtype == np.int64
    assert shard.lengths.tolist() == [len(segment) for document in documents for segment in document]


def test_the_dtype_follows_the_vocabulary():
    assert [token_dtype(n) for n in (32000, 65536, 65537)] == [np.uint16, np.uint16, np.int32]


@pytest.mark.parametrize("bad", [65536, -1])
def test_an_id_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, bad):
    with pytest.raises(ValueError, match="does not fit uint16"), ShardWriter(tmp_path / "a", np.uint16) as writer:
        writer.add_document([np.array([1, bad])])
    assert list(tmp_path.iterdir()) == []


def test_nothing_opens_before_close(tmp_path):
    writer = ShardWriter(tmp_path / "a", np.uint16)
    writer.add_document([np.array([1])])
    with pytest.raises(UserError, match="missing"):
        Shard(tmp_path / "a")
    writer.close()
    assert read(tmp_path / "a") == [[[1]]]


def test_damage_is_named_on_opening(tmp_path):
    good = write(tmp_path / "good")
    index, tokens = (good.with_suffix(s).read_bytes() for s in (".idx", ".bin"))
    cases = {
        "truncated": (index[:-3], tokens, "asks for"),
        "empty": (b"", tokens, "no MMIDIDX header"),
        "foreign": (b"PK\x03\x04" * 30, tokens, "no MMIDIDX header"),
        "version": (index[:9] + struct.pack("<Q", 2) + index[17:], tokens, "version 2"),
        "huge": (index[:18] + struct.pack("<Q", 1 << 60) + index[26:], tokens, "asks for"),
        "documents": (index[:-8] + struct.pack("<q", 5), tokens, "damaged"),
        "short_bin": (index, tokens[:-2], "has 14 bytes"),
    }
    for name, (bad_index, bad_tokens, message) in cases.items():
        (tmp_path / f"{name}.idx").write_bytes(bad_index)
        (tmp_path / f"{name}.bin").write_bytes(bad_tokens)
        with pytest.raises(UserError, match=message) as error:
            Shard(tmp_path / name)
        assert name in str(error.value)


def test_a_pointer_out_of_the_file_is_an_error_and_not_a_short_segment(tmp_path):
    prefix = write(tmp_path / "a")
    raw = bytearray((tmp_path / "a.idx").read_bytes())
    raw[34 + 24 : 34 + 32] = struct.pack("<q", 1 << 40)
    (tmp_path / "a.idx").write_bytes(raw)
    with pytest.raises(UserError, match="damaged at segment 0"):
        Shard(prefix).segment(0)


def test_a_shard_travels_to_another_process_as_its_name(tmp_path):
    shard = Shard(write(tmp_path / "a"))
    message = pickle.dumps(shard)
    assert len(message) < 500
    assert pickle.loads(message).segment(0).tolist() == [1, 2, 3]


def test_two_million_segments_open_at_once_as_views(tmp_path):
    writer = ShardWriter(tmp_path / "a", np.uint16)
    writer._lengths.extend([1] * 2_000_000)
    writer._bin.write(b"\x01\x00" * 2_000_000)
    writer._documents.append(2_000_000)
    writer.close()
    start = time.perf_counter()
    shard = Shard(tmp_path / "a")
    assert time.perf_counter() - start < 0.2
    assert not shard.lengths.flags.owndata and len(shard) == 2_000_000
    assert shard.offsets[1_999_999] == 3_999_998


@pytest.mark.slow
@pytest.mark.skipif(find_spec("megatron") is None, reason="megatron-core is not installed")
def test_megatron_core_reads_the_same_segments(tmp_path):
    documents = [[[1, 2, 3], [4]], [[65535]], [[7, 8], [9]]]
    script = "from megatron.core.datasets.indexed_dataset import IndexedDataset\n"
    for dtype in ("uint16", "int32"):
        prefix = write(tmp_path / dtype, documents, np.dtype(dtype))
        script += f"d = IndexedDataset({str(prefix)!r}, mmap=True)\n"
        script += "print([d[i].tolist() for i in range(len(d))], d.document_indices.tolist(), d.index.dtype.__name__)\n"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    segments = "[[1, 2, 3], [4], [65535], [7, 8], [9]] [0, 2, 3, 5]"
    assert run.stdout.splitlines() == [f"{segments} uint16", f"{segments} int32"]
