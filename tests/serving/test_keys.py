"""API keys: made, read from files, compared."""

from pathlib import Path

import pytest

from src.errors import UserError
from src.serving.keys import load_keys, new_key, sha256


def test_a_new_key_is_let_in_by_its_line_under_its_name(tmp_path: Path) -> None:
    key, line = new_key("alice")
    file = tmp_path / "keys.txt"
    file.write_text(f"# people\n{line}  # since Monday\n\n", encoding="utf-8")
    ring = load_keys(str(file))
    assert ring.owner(key) == "alice"
    assert ring.owner(key + "x") is None
    assert key not in file.read_text()


def test_no_two_new_keys_are_alike() -> None:
    assert new_key("a")[0] != new_key("a")[0]


def test_keys_in_plain_text_and_from_a_file_work_side_by_side(tmp_path: Path) -> None:
    key, line = new_key("alice")
    (tmp_path / "keys.txt").write_text(line)
    ring = load_keys(str(tmp_path / "keys.txt"), ["a-long-enough-key", "another-long-key-"])
    assert [ring.owner(given) for given in (key, "a-long-enough-key", "another-long-key-")] == ["alice", "key1", "key2"]
    assert len(ring) == 3


def test_without_keys_the_ring_is_empty() -> None:
    assert len(load_keys()) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("alice:123", "line 1"),
        ("alice:" + sha256("a") + "\nalice:" + sha256("b"), "line 2"),
        (sha256("a"), "line 1"),
        ("# nothing\n", "has no key"),
    ],
)
def test_a_keys_file_that_cannot_be_read_is_said_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "keys.txt").write_text(content)
    with pytest.raises(UserError, match=said):
        load_keys(str(tmp_path / "keys.txt"))


def test_keys_that_could_never_work_or_have_two_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"key1:{sha256('b' * 20)}\nalice:{sha256('a' * 20)}\n")
    file = str(tmp_path / "keys.txt")
    with pytest.raises(UserError, match="no header can carry"):
        load_keys(plain=["schlüssel-der-nie-passt"])
    with pytest.raises(UserError, match="the key 'alice' again"):
        load_keys(file, ["a" * 20])
    with pytest.raises(UserError, match="has the name 'key1'"):
        load_keys(file, ["c" * 20])
    (tmp_path / "keys.txt").write_text(f"bob:{sha256('a')}\nalice:{sha256('a')}\n")
    with pytest.raises(UserError, match="the key 'bob' again"):
        load_keys(file)


def test_short_keys_missing_files_and_odd_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 characters"):
        load_keys(plain=["short"])
    with pytest.raises(UserError, match="does not exist"):
        load_keys(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="no name"):
        new_key("a:b")
