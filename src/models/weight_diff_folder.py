"""Folders that are written whole, with the hashes of everything in them."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.atomic_folder import lock_of, put_in_place
from src.models.gguf.convert import write_json
from src.models.weight_files import BYTES

logger = logging.getLogger(__name__)

HASHES = "weight_hashes.json"  # of a recovered model
KEY = ".inputs"  # of a folder that is not whole yet
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")


@contextmanager
def whole_folder(target: Path, mark: str, key: str) -> Iterator[Path]:
    """A hidden folder that becomes `target` when all is written; what a stopped run with the same inputs left is kept.

    mark: file that says that an existing folder is an earlier result, which is replaced.
    """
    from filelock import FileLock

    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not (target / mark).is_file():
        raise UserError(f"'{target}' exists and is not an earlier result: give another output folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.partial")
    with FileLock(lock_of(target)):
        if work.is_dir() and (not (work / KEY).is_file() or (work / KEY).read_text() != key):
            shutil.rmtree(work)
        work.mkdir(exist_ok=True)
        (work / KEY).write_text(key)
        try:
            yield work
        except UserError:
            shutil.rmtree(work)
            raise
        (work / KEY).unlink()
        put_in_place(work, target)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Another name to write a file under, so that one with its own name is whole."""
    partial = file.with_name(f"{file.name}.partial")
    yield partial
    partial.rename(file)


def finish(work: Path, shards: dict[str, list[dict[str, Any]]], files: dict[str, str]) -> None:
    """Write the index of several shards, and the hashes of everything."""
    if len(shards) > 1:
        places = {record["name"]: file for file, records in shards.items() for record in records}
        total = sum(record_bytes(record) for records in shards.values() for record in records)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_json(work / "model.safetensors.index.json", index)
    keys = ("name", "dtype", "shape", "sha256")
    tensors = [{key: record[key] for key in keys} for records in shards.values() for record in records]
    write_json(work / HASHES, {"tensors": tensors, "files": files})


def copy_files(source: Path, target: Path) -> dict[str, str]:
    """Copy what a model folder has besides weights: config, tokenizer, card. Returns the SHA-256 of each file.

    Folders within it are left out, and named in a warning.
    """
    target.mkdir(exist_ok=True)
    if folders := sorted(path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        logger.warning("'%s' has folders within it that are left out: %s", source, ", ".join(folders))
    hashes = {}
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith(".") and not file.name.endswith((*WEIGHT_SUFFIXES, HASHES)):
            shutil.copy(file, target / file.name)
            hashes[file.name] = sha256_of_file(target / file.name)
    return hashes


def check_files(folder: Path, hashes: dict[str, str]) -> None:
    for name, sha256 in hashes.items():
        if not (folder / name).is_file() or sha256_of_file(folder / name) != sha256:
            raise UserError(f"{name} of the difference is missing or changed: copy or download the difference again")


def sha256_of_bits(bits: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(bits)).hexdigest()  # type: ignore[arg-type]


def sha256_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_bytes(record: dict[str, Any]) -> int:
    return int(np.prod(record["shape"], dtype=np.int64)) * BYTES[record["dtype"]]


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
