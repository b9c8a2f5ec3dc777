"""Manifests come back as they were saved, and a wrong tokenizer is an error that names both."""

import json

import pytest

from src.errors import UserError
from src.shards.atomic import FileSum
from src.shards.manifest import Counts, Manifest


class Tiny:
    name = "tiny"
    vocab_size = 300
    fingerprint = "3f2a" + "0" * 60


def manifest(**changes):
    values = dict(
        source="zh",
        tokenizer_name="big",
        tokenizer_fingerprint="91bc" + "0" * 60,
        vocabulary_size=32000,
        max_length=1024,
        dtype="uint16",
        splits={"train": Counts(2, 5, 100, 400), "validation": Counts(1, 1, 10, 40)},
        settings={"inputs": [["数据.jsonl", 12]]},
        files={"train-00000.bin": FileSum(200, "ab" * 32)},
    )
    return Manifest(**values | changes)


def test_a_saved_manifest_comes_back_equal(tmp_path):
    manifest().save(tmp_path)
    assert Manifest.load(tmp_path) == manifest()
    assert manifest().total == Counts(3, 6, 110, 440)


def test_a_manifest_without_checksums_is_read(tmp_path):
    manifest().save(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert data.pop("files") == {"train-00000.bin": {"bytes": 200, "sha256": "ab" * 32}}
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    assert Manifest.load(tmp_path) == manifest(files={})


def test_another_tokenizer_is_an_error_that_names_both():
    with pytest.raises(UserError, match=r"'tiny' \(300 tokens, 3f2a…\).*'zh'.*'big', 32000 tokens, 91bc…"):
        manifest().check_tokenizer(Tiny())
    manifest(tokenizer_fingerprint=Tiny.fingerprint).check_tokenizer(Tiny())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 9}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def test_an_unfinished_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no finished token shards"):
        Manifest.load(tmp_path)
