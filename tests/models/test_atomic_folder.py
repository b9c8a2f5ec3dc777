"""A folder is there whole or not at all, and what was there before stays until the new one is whole."""

from pathlib import Path

import pytest

from src.models.atomic_folder import build_folder, identity, put_in_place, scratch_folder


def test_a_folder_that_cannot_be_built_is_not_there(tmp_path: Path) -> None:
    def build(work: Path) -> None:
        (work / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_folder(tmp_path / "out", build)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_process_left_is_not_found_again(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()
    with scratch_folder(tmp_path / "out") as work:
        assert not list(work.iterdir())
    assert not list(tmp_path.iterdir())


def test_the_new_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with scratch_folder(tmp_path / "out") as work:
        (work / "new").touch()
        assert (tmp_path / "out" / "old").exists()
        put_in_place(work, tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/new"]


def test_a_file_and_a_folder_are_known_by_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("1")
    before, alone = identity(tmp_path / "a"), identity(tmp_path / "a" / "b" / "c")
    assert [name for name, *_ in before] == ["b/c"] and [name for name, *_ in alone] == ["c"]
    (tmp_path / "a" / "b" / "c").write_text("12")
    assert identity(tmp_path / "a") != before and identity(tmp_path / "a" / "b" / "c") != alone
