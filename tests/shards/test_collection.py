"""A path means a folder with a manifest, a folder without, or one shard by any of its names."""

import numpy as np
import pytest

from src.errors import UserError
from src.shards.collection import Reading, open_collection
from src.shards.format import Shard
from src.shards.knowlm import write_triple
from src.shards.npy import write_npy
from src.shards.token_file import Span
from tests.shards.shard_cases import contents, make_source, write


@pytest.fixture
def three(tmp_path):
    shard = Shard(write(tmp_path / "m.v1"))
    write_triple(tmp_path / "k.v1", [Span.whole(shard)], [4, 2])
    write_npy(tmp_path / "n.v1.npy", [Span.whole(shard)])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("m.v1", "megatron"),
        ("m.v1.idx", "megatron"),
        ("m.v1.bin", "megatron"),
        ("k.v1", "knowlm"),
        ("k.v1.dis", "knowlm"),
        ("n.v1.npy", "npy"),
        ("n.v1", "npy"),
    ],
)
def test_the_format_is_recognised_by_content_whatever_name_is_given(three, name, form):
    collection = open_collection(three / name)
    assert collection.format == form and list(collection.splits) == [""] and collection.manifest is None
    assert collection.files[0].tokens.tolist() == [1, 2, 3, 4, 299, 7, 8, 9, 5, 6]


def test_a_triple_without_its_dis_is_still_recognised(three):
    (three / "k.v1.dis").unlink()
    assert open_collection(three / "k.v1").format == "knowlm"


def test_a_folder_without_manifest_is_all_its_shards_and_no_sidecars(three):
    assert [file.format for file in open_collection(three).files] == ["knowlm", "megatron", "npy"]


def test_a_folder_with_manifest_has_its_splits(tmp_path):
    collection = open_collection(make_source(tmp_path, files=2))
    assert {split: len(files) for split, files in collection.splits.items()} == {"train": 2, "validation": 2}
    assert collection.manifest.source == "zh"


def test_settings_of_reading_reach_the_readers(three):
    np.save(three / "s.npy", np.arange(6, dtype=np.uint16))
    reading = Reading(row_length=4, document_start=7)
    assert contents(open_collection(three / "s.npy", reading).files[0]) == [[[0, 1, 2, 3]], [[4, 5]]]
    assert len(contents(open_collection(three / "k.v1", reading).files[0])) == 2


def test_what_is_no_shard_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"nothing is no token shard \(there is no nothing.idx and no nothing.npy\)"):
        open_collection(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no token shards"):
        open_collection(tmp_path)
