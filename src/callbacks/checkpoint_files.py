"""Checkpoints on the disk: which ones are complete, which is the newest, and how one comes into being.

A checkpoint is ``step_00000100.ckpt`` (a file, or a folder where each rank writes its part) and its manifest
``step_00000100.json``, which is written last. The manifest lists every file with its size and XXH3-128 checksum
(Collet, xxHash); a checkpoint without one, or with a file that does not agree with it, is not used. ``last.ckpt`` is a
symbolic link to the newest one. Nothing here needs PyTorch, so that commands stay quick.
"""

import functools
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

FORMAT = 1
READ_BYTES = 1 << 23
_NAME = re.compile(r"(?P<prefix>\w+)_(?P<step>\d{8})\.ckpt")


@dataclass(frozen=True)
class FileSum:
    """Size of a file in bytes and its XXH3-128 in hex."""

    bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint without opening it.

    Args:
        step: optimizer steps done.
        consumed_samples: packed rows trained on.
        files: size and checksum by path relative to the checkpoint's folder; ``""`` for a checkpoint of one file.
        time: when it was finished, seconds since 1970.
        metrics: the last values logged before it.
        wandb_id: of the run in Weights & Biases, which a resumed run continues.
    """

    step: int
    consumed_samples: int
    world_size: int
    strategy: str
    precision: str
    files: dict[str, FileSum]
    time: float
    command: str
    metrics: dict[str, float] = field(default_factory=dict)
    wandb_id: str | None = None
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.files.values())


@dataclass(frozen=True)
class Search:
    """The newest usable checkpoint, if any, and a sentence for each newer one that is not."""

    found: Path | None
    skipped: tuple[str, ...]


# Finding and checking


def newest(folders: Sequence[Path], checksums: bool = True) -> Search:
    """Look through the checkpoint folders of one or more runs, the newest checkpoint first.

    Args:
        checksums: compare checksums and not only sizes; reads each file that is looked at.
    """
    found = {one for folder in folders for one in folder.resolve().glob("step_*.ckpt")}
    skipped: list[str] = []
    for path in sorted(found, key=_age, reverse=True):
        problem = problem_with(path, checksums)
        if problem is None:
            return Search(path, tuple(skipped))
        skipped.append(f"{path}: {problem}")
    return Search(None, tuple(skipped))


def problem_with(path: Path, checksums: bool = True) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence about it, or None."""
    if not manifest_path(path).exists():
        return f"it has no manifest {manifest_path(path).name}, so it was not written to its end"
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"its manifest {manifest_path(path).name} can't be read ({error})"
    if manifest.format != FORMAT:
        return f"its manifest has format {manifest.format} and this version reads {FORMAT}"
    for name, known in manifest.files.items():
        file = path / name if name else path
        if not file.is_file():
            return f"{file.name} is missing"
        if (size := file.stat().st_size) != known.bytes:
            return f"{file.name} has {size} bytes instead of {known.bytes}"
    if checksums:
        for name, known in manifest.files.items():
            file = path / name if name else path
            if _checksum_once(file, file.stat().st_mtime_ns) != known:
                return f"{file.name} was changed since it was written (its checksum differs)"
    return None


def checksum(path: Path, sync: bool = False) -> FileSum:
    """Size and XXH3-128 of a file; ``sync`` first waits until it is on the disk."""
    digest, size = xxhash.xxh3_128(), 0
    block = bytearray(READ_BYTES)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        while read := file.readinto(block):
            digest.update(view[:read])
            size += read
    return FileSum(size, digest.hexdigest())


@functools.lru_cache(maxsize=4096)  # a run that starts asks twice: for its folder and for its checkpoint
def _checksum_once(path: Path, changed_ns: int) -> FileSum:
    return checksum(path)


def manifest_path(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".json")


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest beside a checkpoint.

    Raises:
        OSError, ValueError, TypeError, KeyError: there is none, or it is not one.
    """
    content: dict[str, Any] = json.loads(manifest_path(checkpoint).read_text(encoding="utf-8"))
    files = {name: FileSum(**one) for name, one in content.pop("files").items()}
    return Manifest(**content, files=files)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps by a checkpoint's name, −1 for another name."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match["step"]) if match else -1


def _age(path: Path) -> tuple[float, int]:
    """To sort by: when a checkpoint was finished, by its manifest where that can be read."""
    try:
        return read_manifest(path).time, step_of(path)
    except (OSError, ValueError, TypeError, KeyError):
        return path.stat().st_mtime, step_of(path)


# Writing


def partial_path(checkpoint: Path) -> Path:
    """The name of a checkpoint while it is being written."""
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def files_of(checkpoint: Path) -> list[str]:
    """Paths of a checkpoint's files relative to it, ``[""]`` where it is one file."""
    if checkpoint.is_file():
        return [""]
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def commit(partial: Path, checkpoint: Path, manifest: Manifest) -> None:
    """Give a complete checkpoint its name and then its manifest, which makes it one.

    Raises:
        OSError: the disk is full or fails; no checkpoint of this name is left then.
    """
    remove(checkpoint)
    partial.rename(checkpoint)
    try:
        _sync_folder(checkpoint.parent)
        path = manifest_path(checkpoint)
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(manifest), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(checkpoint.parent)
    except OSError:
        remove(checkpoint)
        raise


def link(name: Path, checkpoint: Path) -> None:
    """Make ``name`` a relative symbolic link to a checkpoint in the same folder, in one step."""
    temporary = name.with_name(f".{name.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name, target_is_directory=checkpoint.is_dir())
    if name.is_dir() and not name.is_symlink():  # a folder of the time before there were manifests
        shutil.rmtree(name)
    temporary.replace(name)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its manifest first: what is left if this is interrupted is not a checkpoint."""
    manifest_path(checkpoint).unlink(missing_ok=True)
    delete(checkpoint)


def delete(path: Path) -> None:
    """Remove a file or a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def prune(folder: Path, prefix: str, step: int, keep_last: int, keep_every_n_steps: int | None) -> None:
    """Remove checkpoints that are no longer needed, once the one of ``step`` is complete.

    Kept are the newest ``keep_last`` up to ``step`` and every ``keep_every_n_steps``-th. Later steps are of a run that
    went on from an earlier checkpoint again: ``step`` replaces them. Unfinished checkpoints go too.
    """
    for leftover in folder.glob(f".{prefix}_*.partial"):
        delete(leftover)
    found = sorted(folder.glob(f"{prefix}_*.ckpt"), key=step_of)
    complete = [one for one in found if manifest_path(one).exists() and step_of(one) <= step]
    kept = set(complete[-keep_last:])
    if keep_every_n_steps:
        kept |= {one for one in complete if step_of(one) % keep_every_n_steps == 0}
    for one in found:
        if one not in kept:
            remove(one)


def _sync_folder(folder: Path) -> None:
    """Wait until renames in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
