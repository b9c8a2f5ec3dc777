"""Dump files as streams: plain, .bz2, .gz or .zst, in folders or by globs."""

import bz2
import glob
import gzip
import io
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import zstandard

from src.errors import UserError

WINDOW_BYTES = 1 << 31  # what `zstd --long=31` needs
PACKINGS = (".bz2", ".gz", ".zst")


def find_dumps(paths: str | Path | Iterable[str | Path], endings: tuple[str, ...], what: str) -> list[Path]:
    """The dump files, sorted: files as they are given, and those of a folder with one of the endings (or packed).

    Raises:
        UserError: a path leads to no file.
    """
    found: set[Path] = set()
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given).expanduser()
        if path.is_dir():
            files = [file for file in path.iterdir() if _ending(file) in endings or _is_dump(file)]
        elif path.is_file():
            files = [path]
        else:
            files = [file for file in map(Path, glob.glob(str(path))) if file.is_file()]
        if not files:
            known = ", ".join(endings)
            raise UserError(f"'{given}' leads to no {what}: give a file, folder or glob of {known} (also .bz2 …)")
        found.update(file.absolute() for file in files)
    return sorted(found)


def open_dump(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """The content of a file, and the file itself, whose `tell` says how much of it has been read.

    Both must be closed. Damaged data raises while it is read: `READ_ERRORS`.
    """
    raw = path.open("rb")
    ending = path.suffix.lower()
    if ending == ".bz2":
        return bz2.BZ2File(raw), raw
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw), raw  # type: ignore[return-value]
    if ending == ".zst":
        reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).stream_reader(raw, read_across_frames=True)
        return io.BufferedReader(reader), raw  # type: ignore[type-var, return-value]
    return raw, raw


READ_ERRORS = (OSError, EOFError, zstandard.ZstdError)


def damaged(path: Path, error: Exception) -> UserError:
    """What to say of a file that cannot be read to its end."""
    return UserError(f"{path} cannot be read to its end ({error}): download it again, then run the same command")


def _is_dump(file: Path) -> bool:
    return ".xml-p" in file.name  # enwiki-…-pages-articles1.xml-p1p41242.bz2


def _ending(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in PACKINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
