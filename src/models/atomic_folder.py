"""Folders that are whole or not there: written under a hidden name, renamed when complete, by one process at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.errors import UserError

LOCK_TIMEOUT_S = 3600  # another process may be downloading 26 GB


def build_folder(target: Path, build: Callable[[Path], None]) -> Path:
    """`target`, made by `build` in a hidden folder beside it if it is not there yet; for folders of a cache."""
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"'{target.parent}' cannot be written ({error.strerror}): set KNOWLM_CACHE to another folder"
        ) from error
    # beside the target, because computers may share the cache
    with scratch_folder(target, target.with_name(f".{target.name}.lock")) as work:
        if not target.is_dir():
            build(work)
            work.rename(target)
    return target


@contextmanager
def scratch_folder(target: Path, lock: Path | None = None) -> Iterator[Path]:
    """An empty hidden folder beside `target`, gone afterwards; what a killed process left there goes too.

    lock: file to hold meanwhile; by default one in the system's temporary folder, which litters no folder of a user.
    """
    from filelock import FileLock

    work = target.with_name(f".{target.name}.partial")
    with FileLock(lock or lock_of(target), timeout=LOCK_TIMEOUT_S):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def put_in_place(work: Path, target: Path) -> None:
    """Rename a folder that is whole; an earlier one of the name goes once the new one has it."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def lock_of(target: Path) -> Path:
    """Lock file of a path, outside of the folders that people look into."""
    return Path(tempfile.gettempdir()) / f"knowlm-{digest(str(target.resolve()))[:16]}.lock"


def identity(path: Path) -> list[Any]:
    """What tells a file or folder from another without reading gigabytes: names, sizes and times of files."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
    stats = [file.stat() for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)]


def digest(content: Any) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
