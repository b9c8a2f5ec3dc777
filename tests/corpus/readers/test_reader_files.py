"""Input files are found by what their names end in."""

import pytest

from src.corpus.readers import find_files
from src.corpus.readers.files import format_of
from src.errors import UserError


def test_files_are_found_in_folders_and_globs_and_others_are_refused(tmp_path):
    for name in ("b.jsonl", "sub/a.txt.gz", "sub/.hidden.jsonl", "image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_files(tmp_path) == [tmp_path / "b.jsonl", tmp_path / "sub" / "a.txt.gz"]
    assert find_files(f"{tmp_path}/**/*.txt.gz") == [tmp_path / "sub" / "a.txt.gz"]
    with pytest.raises(UserError, match="leads to no input file"):
        find_files(tmp_path / "none*")
    with pytest.raises(UserError, match=r"image\.png is none of the formats"):
        find_files(tmp_path / "image.png")
    assert tmp_path / "image.png" in find_files(tmp_path, format="txt")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.ndjson", "jsonl"),
        ("A.JSON.ZST", "jsonl"),
        ("CC-MAIN-2024.warc.gz", "warc"),
        ("CC-MAIN-2024.warc.wet.gz", "warc"),
        ("page.htm", "html"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("a.gz", None),
        ("README.md", None),
    ],
)
def test_a_name_tells_the_format(name, format):
    assert format_of(name) == format
