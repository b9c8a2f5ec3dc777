"""KnowLM's triples: byte layout, kinds of data without torch, documents by their first id, and the limits of uint16."""

import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.shards.format import Shard, shard_file
from src.shards.knowlm import KnowLMTriple, kinds_bytes, read_kinds, write_triple
from src.shards.token_file import Span
from tests.shards.shard_cases import contents, write

SAMPLES = [[1, 5, 6], [7, 2], [1, 65535, 2], [1, 9]]


def write_theirs(prefix, samples=SAMPLES, kinds=(3, 1)):
    """The bytes that KnowLM's preprocess.py writes."""
    starts = np.cumsum([0, *map(len, samples)])[:-1]
    index = struct.pack(f"<{len(samples)}Q", *starts) + struct.pack(f"<{len(samples)}H", *map(len, samples))
    shard_file(prefix, ".idx").write_bytes(index)
    shard_file(prefix, ".bin").write_bytes(np.concatenate(samples).astype("<u2").tobytes())
    shard_file(prefix, ".dis").write_bytes(kinds_bytes(kinds))
    return prefix


def test_a_triple_of_theirs_is_read(tmp_path):
    triple = KnowLMTriple(write_theirs(tmp_path / "merge"))
    assert [triple.segment(index).tolist() for index in range(4)] == SAMPLES
    assert triple.groups == (3, 1) and triple.dtype == np.uint16 and triple.lengths.tolist() == [3, 2, 3, 2]
    assert pickle.loads(pickle.dumps(triple)).segment(2).tolist() == SAMPLES[2]


def test_documents_are_samples_or_begin_with_a_known_id(tmp_path):
    prefix = write_theirs(tmp_path / "a")
    assert contents(KnowLMTriple(prefix)) == [[sample] for sample in SAMPLES]
    assert contents(KnowLMTriple(prefix, document_start=1)) == [SAMPLES[:2], SAMPLES[2:3], SAMPLES[3:]]
    assert contents(KnowLMTriple(prefix, document_start=7)) == [SAMPLES[:1], SAMPLES[1:]]


@given(st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=6), max_size=4), max_size=5))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_what_they_would_have_written(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("triple")
    shard = Shard(write(folder / "m", documents))
    write_triple(folder / "k", [Span.whole(shard)], [len(shard)])
    samples = [segment for document in documents for segment in document]
    if samples:
        write_theirs(folder / "t", samples, [len(samples)])
        for suffix in (".idx", ".bin", ".dis"):
            assert (folder / f"k{suffix}").read_bytes() == (folder / f"t{suffix}").read_bytes()
    assert [segment for document in contents(KnowLMTriple(folder / "k")) for segment in document] == samples


def test_a_length_above_65535_is_refused_and_leaves_nothing(tmp_path):
    long = Shard(write(tmp_path / "long", [[[1]], [[2] * 65535], [[3] * 65536]]))
    with pytest.raises(UserError, match="segment 2 has 65536 tokens and KnowLM's format holds 65535"):
        write_triple(tmp_path / "k", [Span.whole(long)], [3])
    write_triple(tmp_path / "fits", [Span(long, 0, 2)], [2])
    assert len(KnowLMTriple(tmp_path / "fits").segment(1)) == 65535
    assert not list(tmp_path.glob("k.*"))


def test_an_id_above_65535_is_refused_and_leaves_nothing(tmp_path):
    large = Shard(write(tmp_path / "large", [[[1, 65536]]], np.int32))
    with pytest.raises(UserError, match=r"token id 65536 of .*large does not fit uint16"):
        write_triple(tmp_path / "k", [Span.whole(large)], [1])
    assert not list(tmp_path.glob("k.*"))


def test_damage_is_named_on_opening(tmp_path):
    prefix = write_theirs(tmp_path / "a")
    index, tokens = (shard_file(prefix, suffix).read_bytes() for suffix in (".idx", ".bin"))
    cases = {"odd": (index + b"x", tokens, "no multiple of 10"), "short": (index, tokens[:-2], "speaks of 10")}
    for name, (bad_index, bad_tokens, message) in cases.items():
        (tmp_path / f"{name}.idx").write_bytes(bad_index)
        (tmp_path / f"{name}.bin").write_bytes(bad_tokens)
        with pytest.raises(UserError, match=message):
            KnowLMTriple(tmp_path / name)
    shard_file(prefix, ".dis").write_bytes(kinds_bytes([3]))
    with pytest.raises(UserError, match=r"a\.dis counts 3 samples, the index 4"):
        KnowLMTriple(prefix)


class Attack:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [Attack(), {"a": 1}, [1.5], [-1], "text"])
def test_a_dis_file_that_is_no_list_of_counts_is_refused_and_not_executed(tmp_path, capsys, content):
    with zipfile.ZipFile(tmp_path / "a.dis", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"a\.dis"):
        read_kinds(tmp_path / "a.dis")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_torch_reads_our_kinds_and_we_read_those_of_torch(tmp_path):
    (tmp_path / "ours.dis").write_bytes(kinds_bytes([5500000, 1500000, 900000]))
    script = (
        f"import torch; print(torch.load({str(tmp_path / 'ours.dis')!r}), "
        f"torch.load({str(tmp_path / 'ours.dis')!r}, weights_only=False)); "
        f"torch.save([3, 70000], {str(tmp_path / 'theirs.dis')!r})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == " ".join(["[5500000, 1500000, 900000]"] * 2), run.stderr[-1000:]
    assert read_kinds(tmp_path / "theirs.dis") == [3, 70000]
