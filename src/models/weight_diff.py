"""What a tuned model adds to the one it was made from, as a folder to pass on, and back again, bit for bit.

Who may not pass on a model passes on the difference (Alpaca's and KnowLM's weight_diff). Floating-point subtraction
can't be undone: a + (b - a) is b only up to rounding. So the difference here is of the *bit patterns* read as whole
numbers, modulo 2 to the power of their bits, which addition undoes for every pair, infinities included. Rows that the
tuned model has more (added vocabulary) count from zero, so they are stored as they are; a tensor of another type or
width, or one that only the tuned model has, is stored whole; one that did not change is not stored.

The manifest has the SHA-256 of each tensor on both sides, so that a wrong or damaged file is named. Tensors are read
one at a time. A folder that a run left half is taken up again shard by shard, under a hidden name until it is whole.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.atomic_folder import digest, identity
from src.models.gguf.architecture import NOT_WEIGHTS
from src.models.gguf.convert import write_json
from src.models.weight_diff_folder import (
    HASHES,
    check_files,
    copy_files,
    finish,
    record_bytes,
    sha256_of_bits,
    sha256_of_file,
    size_of,
    whole_file,
    whole_folder,
)
from src.models.weight_files import (
    BYTES,
    StoredTensor,
    TensorFiles,
    WeightFiles,
    as_float32,
    bytes_progress,
    from_float32,
    write_safetensors,
)

logger = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "weight_diff.json"  # of a difference
FILES = "files"  # what the tuned model has besides weights; not beside them, so that nobody loads a difference
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
ADDED, SAME, WHOLE = "added", "same", "whole"  # how a tensor is stored: as a difference, not at all, as it is


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of the tuned model. raw_sha256: of the raw model's tensor; None where it is not needed."""

    name: str
    dtype: str
    shape: list[int]
    sha256: str
    how: str
    raw_sha256: str | None = None


@dataclass
class Summary:
    """What was written: tensors by how they are stored, bytes, and what only the raw model has (left out).

    verified: whether every tensor was compared with its hash.
    """

    folder: Path
    tensors: dict[str, int]
    nbytes: int
    only_raw: list[str]
    verified: bool = True


def make_diff(raw: str | Path, tuned: str | Path, output: str | Path, names: tuple[str, str] | None = None) -> Summary:
    """Write the difference between two Hugging Face folders.

    names: of the raw and the tuned model, for whoever gets the difference; by default those of their folders.

    Raises:
        UserError: a folder is no model, or `output` holds something else.
    """
    raw, tuned, output = Path(raw), Path(tuned), Path(output)
    before, after = WeightFiles(raw), WeightFiles(tuned)
    shards = _by_file(after)
    key = digest(["make", FORMAT, identity(raw), identity(tuned)])
    with whole_folder(output, MANIFEST, key) as work, bytes_progress("comparing", 2 * after.nbytes) as advance:
        records: list[dict[str, Any]] = []
        for number, (file, tensors) in enumerate(shards.items(), 1):
            name = f"difference-{number:05d}.safetensors"
            progress = work / f".{name}.json"  # there once the shard is whole
            found = _found_again(work / name, progress)
            if found is None:
                found = _write_difference(work / name, before, after, tensors, advance)
                with whole_file(progress) as partial:
                    write_json(partial, {"tensors": found, "sha256": sha256_of_file(work / name)})
            else:
                advance(2 * sum(tensor.nbytes for tensor in tensors))
            shard = {"file": _safetensors_name(file, number, len(shards)), "difference": name}
            records.append({**shard, "tensors": found})
        for progress in work.glob(".*.json"):
            progress.unlink()
        only_raw = sorted(before.tensors.keys() - after.tensors.keys())
        manifest = {
            "format": FORMAT,
            "raw": names[0] if names else raw.resolve().name,
            "tuned": names[1] if names else tuned.resolve().name,
            "shards": records,
            "only_raw": only_raw,
            "files": copy_files(tuned, work / FILES),
        }
        write_json(work / MANIFEST, manifest)
    counts = _count(record["how"] for shard in records for record in shard["tensors"])
    return Summary(output, counts, size_of(output), only_raw)


def recover(raw: str | Path, diff: str | Path, output: str | Path, dtype: str = "float32") -> Summary:
    """Write the tuned model out of the raw one and a difference, and check every tensor and file of it.

    dtype: of what is written where the difference is one of KnowLM's, floating-point numbers without a manifest.

    Raises:
        UserError: the raw model is another one, or a file is damaged; the message names the first tensor that differs.
    """
    raw, diff, output = Path(raw), Path(diff), Path(output)
    if not (diff / MANIFEST).is_file():
        return _recover_plain(raw, diff, output, dtype)
    manifest = _read_manifest(diff)
    before = WeightFiles(raw)
    key = digest(["recover", identity(raw), identity(diff)])
    total = sum(record_bytes(record) for shard in manifest["shards"] for record in shard["tensors"])
    with whole_folder(output, HASHES, key) as work, bytes_progress("recovering", total) as advance:
        for shard in manifest["shards"]:
            records = [TensorRecord(**record) for record in shard["tensors"]]
            if _is_recovered(work / shard["file"], records):
                advance(sum(record_bytes(asdict(record)) for record in records))
                continue
            stored = TensorFiles(_existing(diff, shard["difference"]))
            header = [(record.name, record.dtype, tuple(record.shape)) for record in records]
            values = (_recovered(record, before, stored, manifest["raw"], diff, advance) for record in records)
            with whole_file(work / shard["file"]) as partial:
                write_safetensors(partial, header, values)
        check_files(diff / FILES, manifest["files"])
        for name in manifest["files"]:
            shutil.copy(diff / FILES / name, work / name)
        finish(work, {shard["file"]: shard["tensors"] for shard in manifest["shards"]}, manifest["files"])
    counts = _count(record["how"] for shard in manifest["shards"] for record in shard["tensors"])
    return Summary(output, counts, size_of(output), manifest["only_raw"])


# --- one difference ---------------------------------------------------------------------------------------------------


def subtract(tuned: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """Difference of unsigned bit patterns, modulo 2 to their bits. Rows that `raw` lacks count as zeros."""
    difference = tuned.copy()
    rows = min(len(raw), len(tuned))
    difference[:rows] -= raw[:rows]
    return difference


def add(difference: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """The opposite of `subtract`, exact for every pair."""
    tuned = difference.copy()
    rows = min(len(raw), len(tuned))
    tuned[:rows] += raw[:rows]
    return tuned


def _write_difference(
    file: Path, before: TensorFiles, after: TensorFiles, tensors: list[StoredTensor], advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Write the differences of one shard; two passes, because what did not change is known only when all is read."""
    records = []
    for tensor in tensors:
        records.append(_record(before, after, tensor))
        advance(tensor.nbytes * (2 if records[-1].how == SAME else 1))
    stored = [record for record in records if record.how != SAME]
    header = [
        (one.name, one.dtype if one.how == WHOLE else _whole_numbers(one.dtype), tuple(one.shape)) for one in stored
    ]

    def values() -> Iterator[np.ndarray]:
        for record in stored:
            bits = after.read(record.name)
            advance(bits.nbytes)
            yield bits if record.how == WHOLE else subtract(bits, before.read(record.name))

    write_safetensors(file, header, values())
    return [asdict(record) for record in records]


def _found_again(file: Path, progress: Path) -> list[dict[str, Any]] | None:
    """The records of a shard that a stopped run wrote; None where it did not, or the shard is not as it was."""
    if not progress.is_file() or not file.is_file():
        return None
    content = json.loads(progress.read_text(encoding="utf-8"))
    records: list[dict[str, Any]] = content["tensors"]
    return records if sha256_of_file(file) == content["sha256"] else None


def _is_recovered(file: Path, records: list[TensorRecord]) -> bool:
    """Whether a stopped run wrote a shard and all its tensors are right."""
    if not file.is_file():
        return False
    try:
        found = TensorFiles(file)
    except UserError:
        return False
    return found.tensors.keys() == {record.name for record in records} and all(
        sha256_of_bits(found.read(record.name)) == record.sha256 for record in records
    )


def _whole_numbers(dtype: str) -> str:
    """The type of unsigned numbers that has as many bits."""
    return f"U{8 * BYTES[dtype]}"


def _record(before: TensorFiles, after: TensorFiles, tensor: StoredTensor) -> TensorRecord:
    sha256 = sha256_of_bits(after.read(tensor.name))
    base = before.tensors.get(tensor.name)
    comparable = (
        base is not None
        and base.dtype == tensor.dtype
        and len(base.shape) == len(tensor.shape) > 0
        and base.shape[1:] == tensor.shape[1:]
    )
    if not comparable:
        return TensorRecord(tensor.name, tensor.dtype, list(tensor.shape), sha256, WHOLE)
    raw_sha256 = sha256_of_bits(before.read(tensor.name))
    how = SAME if raw_sha256 == sha256 and base.shape == tensor.shape else ADDED  # type: ignore[union-attr]
    return TensorRecord(tensor.name, tensor.dtype, list(tensor.shape), sha256, how, raw_sha256)


def _recovered(
    record: TensorRecord,
    before: TensorFiles,
    stored: TensorFiles,
    raw_name: str,
    diff: Path,
    advance: Callable[[int], None],
) -> np.ndarray:
    """One tensor of the tuned model, checked. Raises `UserError` that says which side is to blame."""
    if record.how != WHOLE:
        if record.name not in before.tensors:
            raise UserError(f"the raw model has no tensor {record.name}: give the folder of {raw_name}")
        raw = before.read(record.name)
        if sha256_of_bits(raw) != record.raw_sha256:
            raise UserError(
                f"tensor {record.name} of the raw model ({before.tensors[record.name].file.name}) is not the one that "
                f"the difference was made from: give {raw_name} in the same revision and type, or download it again"
            )
    if record.how == SAME:
        bits = raw
    elif record.name not in stored.tensors:
        raise UserError(f"the difference '{diff}' lacks tensor {record.name}: copy or download it again")
    else:
        bits = stored.read(record.name)
        bits = bits if record.how == WHOLE else add(bits, raw)
    if sha256_of_bits(bits) != record.sha256:
        raise UserError(
            f"tensor {record.name} does not come out as it was: {stored.tensors[record.name].file.name} of the "
            "difference is damaged, so copy or download it again"
        )
    advance(bits.nbytes)
    return bits


# --- KnowLM's differences ---------------------------------------------------------------------------------------------


def _recover_plain(raw: Path, diff: Path, output: Path, dtype: str) -> Summary:
    """Raw + difference in float32, as KnowLM and Alpaca made theirs; nothing tells whether the result is right.

    For want of hashes a stopped run begins anew.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not known: expected one of {', '.join(DTYPES)}")
    if not (diff / "config.json").is_file():
        raise UserError(
            f"'{diff}' is no difference: expected {MANIFEST} in it, or a model folder of differences as KnowLM's tools "
            "write it"
        )
    logger.warning("'%s' came without hashes (no %s): the result can't be checked", diff, MANIFEST)
    before, change = WeightFiles(raw), WeightFiles(diff)
    _check_same_shapes(before, change, raw, diff)
    shards = _by_file(change)
    key = digest(["plain", dtype, identity(raw), identity(diff)])
    written: dict[str, list[dict[str, Any]]] = {}
    with whole_folder(output, HASHES, key) as work, bytes_progress("recovering", change.nbytes) as advance:
        for number, (file, tensors) in enumerate(shards.items(), 1):
            name = _safetensors_name(file, number, len(shards))
            kept = [tensor for tensor in tensors if tensor.name in before.tensors]
            header = [(tensor.name, DTYPES[dtype], tensor.shape) for tensor in kept]

            def values(kept: list[StoredTensor] = kept) -> Iterator[np.ndarray]:
                for tensor in kept:
                    base = as_float32(before.read(tensor.name), before.tensors[tensor.name].dtype)
                    total = base + as_float32(change.read(tensor.name), tensor.dtype)
                    advance(tensor.nbytes)
                    yield from_float32(total, DTYPES[dtype])

            with whole_file(work / name) as partial:
                write_safetensors(partial, header, values())
            result = TensorFiles(work / name)
            written[name] = [
                asdict(TensorRecord(one.name, one.dtype, list(one.shape), sha256_of_bits(result.read(one.name)), ADDED))
                for one in result.tensors.values()
            ]
        hashes = copy_files(diff, work)
        config = json.loads((work / "config.json").read_text(encoding="utf-8"))
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
        write_json(work / "config.json", config)
        finish(work, written, {**hashes, "config.json": sha256_of_file(work / "config.json")})
    only_raw = sorted(before.tensors.keys() - change.tensors.keys())
    return Summary(output, {ADDED: sum(len(v) for v in written.values())}, size_of(output), only_raw, verified=False)


def _check_same_shapes(before: WeightFiles, change: WeightFiles, raw: Path, diff: Path) -> None:
    for name, tensor in change.tensors.items():
        base = before.tensors.get(name)
        if base is None and not name.endswith(NOT_WEIGHTS):
            raise UserError(f"the raw model '{raw}' has no tensor {name}: '{diff}' was made from another one")
        if base is not None and base.shape != tensor.shape:
            raise UserError(
                f"tensor {name} has shape {list(base.shape)} in the raw model and {list(tensor.shape)} in '{diff}': "
                "it was made from another model"
            )


# --- reading ----------------------------------------------------------------------------------------------------------


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f"the difference '{folder}' lacks {name}: copy or download it again")
    return folder / name


def _safetensors_name(file: Path, number: int, count: int) -> str:
    if file.suffix == ".safetensors":
        return file.name
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _by_file(weights: WeightFiles) -> dict[Path, list[StoredTensor]]:
    shards: dict[Path, list[StoredTensor]] = {file: [] for file in weights.files}
    for tensor in weights.tensors.values():
        shards[tensor.file].append(tensor)
    return shards


def _read_manifest(diff: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((diff / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(f"'{diff}' has format {manifest['format']}, and this version reads {FORMAT}: update it")
        manifest["shards"][0]["tensors"][0]["sha256"]
        names = [shard[key] for shard in manifest["shards"] for key in ("file", "difference")] + [*manifest["files"]]
        if outside := [name for name in names if Path(name).name != name or name.startswith(".")]:
            raise ValueError(f"{outside[0]!r} is no plain file name")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{MANIFEST} of '{diff}' is damaged ({error}): copy or download it again") from error
    return manifest


def _count(kinds: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts
