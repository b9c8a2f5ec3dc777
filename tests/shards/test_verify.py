"""Every kind of damage is found and named, and undamaged shards have none."""

import json

import numpy as np
import pytest

from src.shards.collection import open_collection
from src.shards.format import Shard
from src.shards.verify import ids_problem, index_problem, verify
from tests.shards.shard_cases import DOCUMENTS, write

SEGMENTS = sum(map(len, DOCUMENTS))


def problems(path, vocabulary_size=None):
    return [
        (check.where, check.what, check.problem)
        for check in verify(open_collection(path), vocabulary_size)
        if check.problem
    ]


def test_good_shards_have_no_problem_and_everything_is_looked_at(source_folder):
    read = []
    checks = list(verify(open_collection(source_folder), advance=read.append))
    assert not any(check.problem for check in checks)
    assert sorted({check.what for check in checks}) == ["checksum", "counts", "ids", "index"] and len(checks) == 10
    assert sum(read) == 2 * Shard(source_folder / "train-00000").tokens.size


def damage(path, offset, value):
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(value)] = value
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("offset", "what"),
    [
        (34 + 4 * 2, "damaged at segment"),  # a length
        (34 + 4 * SEGMENTS + 8 * 3, "damaged at segment 3"),  # a pointer
        (34 + 12 * SEGMENTS + 8 * 4, "damaged at document"),  # a document
    ],
)
def test_a_wrong_index_entry_is_found(source_folder, offset, what):
    damage(source_folder / "train-00000.idx", offset, b"\x00\x00\x00\x00")
    found = problems(source_folder)
    assert found[0][:2] == ("train-00000", "index") and what in found[0][2]
    assert ("train-00000.idx", "checksum") in [problem[:2] for problem in found]


def test_an_id_outside_the_vocabulary_is_found_at_its_place(source_folder):
    damage(source_folder / "train-00000.bin", 2 * 5, (300).to_bytes(2, "little"))
    where, what, problem = problems(source_folder)[0]
    assert (where, what, problem) == ("train-00000", "ids", "token 5 has id 300, which is not in the vocabulary of 300")
    assert problems(source_folder, vocabulary_size=400)[0][1] == "checksum"


def test_a_flipped_bit_that_no_other_check_sees_is_found_by_its_checksum(source_folder):
    damage(source_folder / "train-00000.bin", 2, b"\x03")
    assert [problem[:2] for problem in problems(source_folder)] == [("train-00000.bin", "checksum")]


def test_missing_and_added_shards_are_found(source_folder):
    write(source_folder / "train-00001", [[[1]]])
    found = {(where, what) for where, what, _ in problems(source_folder)}
    assert {("train", "counts"), ("train-00001.bin", "checksum"), ("train-00001.idx", "checksum")} == found
    for name in ("train-00001", "validation-00000"):
        for suffix in (".bin", ".idx"):
            (source_folder / f"{name}{suffix}").unlink()
    found = {(where, what) for where, what, _ in problems(source_folder)}
    assert ("validation", "counts") in found and ("validation-00000.bin", "checksum") in found


def test_a_segment_longer_than_the_manifest_says_is_found(source_folder):
    data = json.loads((source_folder / "manifest.json").read_text())
    (source_folder / "manifest.json").write_text(json.dumps(data | {"max_length": 2}))
    assert problems(source_folder)[0][2] == "segment 0 has 3 tokens, the manifest says at most 2"


def test_a_manifest_without_checksums_is_no_problem(source_folder):
    data = json.loads((source_folder / "manifest.json").read_text())
    (source_folder / "manifest.json").write_text(json.dumps(data | {"files": {}}))
    assert problems(source_folder) == []


def test_a_shard_alone_is_checked_without_a_manifest(tmp_path):
    shard = Shard(write(tmp_path / "a", dtype=np.int32))
    assert index_problem(shard) == ids_problem(shard) == ""
    assert ids_problem(shard, 299) == "token 4 has id 299, which is not in the vocabulary of 299"
    negative = Shard(write(tmp_path / "b", [[[1, -5]]], np.int32))
    assert ids_problem(negative) == "token 1 has id -5, which is not in the vocabulary"
