"""A folder gets its name when it is whole; a stopped run with the same inputs finds what it had written."""

from pathlib import Path

import pytest

from src.errors import UserError
from src.models.weight_diff_folder import HASHES, copy_files, whole_file, whole_folder


class Stopped(Exception):
    pass


def stop_after_one_file(target: Path, key: str) -> None:
    with pytest.raises(Stopped), whole_folder(target, "mark", key) as work:
        (work / "first").write_text("1")
        raise Stopped


def test_a_stopped_run_finds_its_files_again_with_the_same_inputs(tmp_path: Path) -> None:
    stop_after_one_file(tmp_path / "out", "a")
    assert not (tmp_path / "out").exists()
    with whole_folder(tmp_path / "out", "mark", "a") as work:
        assert (work / "first").read_text() == "1"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["first"]


def test_other_inputs_begin_anew(tmp_path: Path) -> None:
    stop_after_one_file(tmp_path / "out", "a")
    with whole_folder(tmp_path / "out", "mark", "b") as work:
        assert not (work / "first").exists()


def test_a_mistake_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError), whole_folder(tmp_path / "out", "mark", "a") as work:
        (work / "first").write_text("1")
        raise UserError("wrong model")
    assert not list(tmp_path.iterdir())


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with pytest.raises(Stopped), whole_file(tmp_path / "a") as partial:
        partial.write_text("half")
        raise Stopped
    assert not (tmp_path / "a").exists()


def test_everything_but_weights_and_folders_is_copied(tmp_path: Path, caplog) -> None:
    (tmp_path / "model" / "additional_chat_templates").mkdir(parents=True)
    for name in ("config.json", "tokenizer.model", "README.md"):
        (tmp_path / "model" / name).write_text(name)
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", ".git", HASHES):
        (tmp_path / "model" / name).write_text("left out")
    assert list(copy_files(tmp_path / "model", tmp_path / "copy")) == ["README.md", "config.json", "tokenizer.model"]
    assert "has folders within it that are left out: additional_chat_templates" in caplog.text
