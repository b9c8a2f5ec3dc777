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
from src.shards.atomic import checksum
from src.shards.format import CODES, DTYPES, HEADER, MAGIC, Shard, ShardWriter, token_dtype, write_shard
from src.shards.token_file import Span

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


def by_hand(prefix, tokens, lengths, documents, modes=b"", code=None):
    """A shard as another program may write it."""
    lengths = np.asarray(lengths, np.int64)
    pointers = (np.cumsum(lengths) - lengths) * tokens.itemsize
    index = HEADER.pack(MAGIC, 1, code or CODES[tokens.dtype], len(lengths), len(documents))
    index += lengths.astype("<i4").tobytes() + pointers.astype("<i8").tobytes()
    prefix.with_suffix(".idx").write_bytes(index + np.asarray(documents, "<i8").tobytes() + modes)
    prefix.with_suffix(".bin").write_bytes(tokens.tobytes())
    return prefix


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16])
def test_every_integer_type_of_the_format_is_read_and_copied(tmp_path, dtype):
    tokens = np.array([1, 2, 3, 100], dtype)
    shard = Shard(by_hand(tmp_path / "a", tokens, [3, 1], [0, 2]))
    assert shard.dtype == dtype and shard.segment(0).tolist() == [1, 2, 3] and shard.modes is None
    write_shard(tmp_path / "b", [Span.whole(shard)])
    for suffix in (".idx", ".bin"):
        assert (tmp_path / f"b{suffix}").read_bytes() == (tmp_path / f"a{suffix}").read_bytes()


def test_floating_point_numbers_are_no_token_ids(tmp_path):
    codes = [code for code, dtype in DTYPES.items() if np.dtype(dtype).kind == "f"]
    assert codes == [6, 7]
    for code in codes:
        with pytest.raises(UserError, match=f"dtype code {code}"):
            Shard(by_hand(tmp_path / "a", np.zeros(4, np.float32), [4], [0, 1], code=code))


def test_the_modes_of_a_multimodal_index_are_read_and_kept(tmp_path):
    tokens = np.arange(4, dtype=np.int32)
    images = Shard(by_hand(tmp_path / "images", tokens, [3, 1], [0, 2], modes=b"\x00\x01"))
    assert images.modes.tolist() == [0, 1]
    text = Shard(by_hand(tmp_path / "text", tokens, [4], [0, 1]))
    write_shard(tmp_path / "both", [Span.whole(text), Span.whole(images)])
    both = Shard(tmp_path / "both")
    assert both.modes.tolist() == [0, 0, 1] and both.lengths.tolist() == [4, 3, 1]


def test_ids_of_several_types_meet_in_the_wider_one(tmp_path):
    small, large = write(tmp_path / "a", dtype=np.uint16), write(tmp_path / "b", [[[70000]]], np.int32)
    write_shard(tmp_path / "c", [Span.whole(Shard(small)), Span.whole(Shard(large))])
    merged = Shard(tmp_path / "c")
    assert merged.dtype == np.int32 and read(tmp_path / "c") == [*DOCUMENTS, [[70000]]]


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=9), max_size=5), max_size=6),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_documents_in_any_order_of_spans_are_copied_whole(tmp_path_factory, documents, data):
    folder = tmp_path_factory.mktemp("spans")
    shard = Shard(write(folder / "a", documents))
    ends = st.integers(0, len(documents))
    spans = data.draw(st.lists(st.tuples(ends, ends).map(sorted), min_size=1, max_size=4))
    write_shard(folder / "b", [Span(shard, *span) for span in spans])
    assert read(folder / "b") == [document for begin, end in spans for document in documents[begin:end]]


def test_the_writer_knows_the_sums_of_its_files(tmp_path):
    with ShardWriter(tmp_path / "a", np.uint16) as writer:
        writer.add_document([np.array([1, 2])])
    assert writer.sums == {name: checksum(tmp_path / name) for name in ("a.bin", "a.idx")}


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    length=st.integers(1, 9),
    data=st.data(),
    dtype=st.sampled_from([np.int64, np.int32, np.uint16]),
)
@settings(max_examples=60, deadline=None)
def test_gathered_rows_are_the_segments_cut_and_filled_up(tmp_path_factory, lengths, length, data, dtype):
    ids = iter(range(1000, 2000))
    segments = [[next(ids) for _ in range(size)] for size in lengths]
    shard = Shard(write(tmp_path_factory.mktemp("gather") / "a", [segments]))
    indices = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6)), np.int64)
    out = np.full((len(indices), length), 5, dtype)
    assert shard.gather(indices, length, out, pad_id=7) is out
    assert out.tolist() == [(segments[index] + [7] * length)[:length] for index in indices]
    assert shard.gather(indices, length).dtype == np.int64


def test_a_gather_over_a_damaged_index_is_an_error(tmp_path):
    prefix = write(tmp_path / "a")
    raw = bytearray((tmp_path / "a.idx").read_bytes())
    raw[34 + 24 + 8 : 34 + 24 + 16] = struct.pack("<q", -8)
    (tmp_path / "a.idx").write_bytes(raw)
    with pytest.raises(UserError, match="damaged at segment 1"):
        Shard(prefix).gather(np.array([0, 1]), 2)


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
