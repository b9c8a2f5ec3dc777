"""The tensors of a Hugging Face folder, read and written one at a time.

A safetensors file (https://github.com/huggingface/safetensors#format) is eight bytes of length, a JSON header and the
bytes of the tensors, so one tensor can be read or written without its file in memory: 13 billion parameters need no
more than their largest tensor. ``pytorch_model.bin`` is mapped into memory by torch instead.

Values are handled as the bit patterns they are stored as. NumPy has no bfloat16, and who copies or compares tensors
needs no numbers.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
TORCH_NAMES = {
    "torch.bool": "BOOL",
    "torch.uint8": "U8",
    "torch.int8": "I8",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int16": "I16",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int32": "I32",
    "torch.float32": "F32",
    "torch.int64": "I64",
    "torch.float64": "F64",
}
HEADER_BYTES = 100 * 2**20  # safetensors' own limit
SHOWN_BYTES = 200 * 2**20  # shorter work shows no progress


@dataclass(frozen=True)
class StoredTensor:
    """One tensor on disk. dtype: safetensors' name of it, such as ``BF16``. offset: of its bytes; None in a pickle."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * BYTES[self.dtype]


class TensorFiles:
    """The tensors of several files, ``tensors`` by name, in the order of the files.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, *files: Path) -> None:
        self.files = files
        self._loaded: tuple[Path, dict[str, Any]] | None = None
        self.tensors: dict[str, StoredTensor] = {}
        for file in files:
            for tensor in self._list(file):
                self.tensors[tensor.name] = tensor

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Bit patterns of a tensor, or of some of its rows, as unsigned integers of its size, in its shape."""
        tensor = self.tensors[name]
        size = BYTES[tensor.dtype]
        if tensor.offset is None:
            values = self._pickle(tensor.file)[name]
            return _bits(values if rows is None else values[rows], size)
        shape, offset = tensor.shape, tensor.offset
        if rows is not None:
            start, stop, _ = rows.indices(shape[0])
            row_bytes = math.prod(shape[1:]) * size
            shape, offset = (max(stop - start, 0), *shape[1:]), offset + start * row_bytes
        values = np.fromfile(tensor.file, dtype=f"<u{size}", count=math.prod(shape), offset=offset)
        if values.size != math.prod(shape):
            raise UserError(f"'{tensor.file}' ends within tensor {name}: copy or download it again")
        return values.reshape(shape)

    def _list(self, file: Path) -> Iterator[StoredTensor]:
        if file.suffix == ".safetensors":
            yield from _header(file)
            return
        for name, values in self._pickle(file).items():
            yield StoredTensor(name, _known_dtype(TORCH_NAMES.get(str(values.dtype), ""), file), (*values.shape,), file)

    def _pickle(self, file: Path) -> dict[str, Any]:
        """The tensors of a ``.bin`` file, mapped into memory; one file at a time stays open."""
        if self._loaded is None or self._loaded[0] != file:
            import pickle

            import torch

            try:
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise UserError(f"'{file}' cannot be read ({str(error).splitlines()[0]}): download it again") from error
            self._loaded = file, {name: value for name, value in content.items() if hasattr(value, "dtype")}
        return self._loaded[1]


class WeightFiles(TensorFiles):
    """The weights of a Hugging Face folder.

    Raises:
        UserError: the folder has no weights, lacks a shard, or a file of it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        super().__init__(*weight_files(self.folder))


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, safetensors rather than pickles, in the order of their names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():  # before an index, as transformers takes them
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        files = [folder / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise UserError(f"'{folder}' lacks {', '.join(missing)}: copy or download the missing files")
        return files
    raise UserError(f"'{folder}' has no weights: expected model.safetensors or pytorch_model.bin, or their shards")


def as_float32(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers that bit patterns of a 16-, 32- or 64-bit floating-point type stand for."""
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F64":
        return bits.view(np.float64).astype(np.float32)
    raise UserError(f"a tensor of type {dtype} holds no plain numbers: expected F32, F16 or BF16 weights")


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bit patterns of numbers as F32, F16 or BF16, rounded to the nearest, ties to even."""
    if dtype == "F32":
        return values.view(np.uint32)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    if dtype != "BF16":
        raise UserError(f"weights can't be written as {dtype}: expected F32, F16 or BF16")
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def write_safetensors(
    file: Path, tensors: list[tuple[str, str, tuple[int, ...]]], values: Iterable[np.ndarray]
) -> list[StoredTensor]:
    """Write a safetensors file as its values come.

    tensors: name, dtype and shape of each. values: their bits, in the same order; any integer type of the right size.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for (name, _, _), bits in zip(tensors, values, strict=True):
            start, end = header[name]["data_offsets"]
            if bits.nbytes != end - start:
                raise ValueError(f"{name}: {bits.nbytes} bytes, announced {end - start}")
            np.ascontiguousarray(bits).tofile(stream)
    first = 8 + len(text)
    return [
        StoredTensor(name, dtype, shape, file, first + header[name]["data_offsets"][0])
        for name, dtype, shape in tensors
    ]


@contextmanager
def bytes_progress(what: str, total: int) -> Iterator[Any]:
    """A bar over bytes with rate and estimate, on the error stream; the function it gives takes the bytes done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = total >= SHOWN_BYTES
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _header(file: Path) -> Iterator[StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if not 0 < length <= min(HEADER_BYTES, size - 8):
                raise ValueError("its length is impossible")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{file}' has no safetensors header ({error}): copy or download it again") from error
    first = 8 + length
    if size != first + max(ends, default=0):
        raise UserError(
            f"'{file}' has {size:,} bytes where its header says {first + max(ends, default=0):,}: "
            "it is not whole, so copy or download it again"
        )
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = _known_dtype(entry["dtype"], file)
        yield StoredTensor(name, dtype, tuple(entry["shape"]), file, first + entry["data_offsets"][0])


def _known_dtype(dtype: str, file: Path) -> str:
    if dtype not in BYTES:
        raise UserError(f"'{file}' holds tensors of a type that is not known here ({dtype or 'unnamed'})")
    return dtype


def _bits(values: Any, size: int) -> np.ndarray:
    import torch

    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    return values.contiguous().view(integer).numpy().view(f"<u{size}")
