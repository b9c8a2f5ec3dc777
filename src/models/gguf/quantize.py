"""Numbers of fewer bits in a GGUF file: which tensor gets which type, and the quantising itself.

The types of one scale (and one minimum) for 32 values, Q8_0 to Q4_0, are computed by the ``gguf`` package in NumPy. The
K-quants of 256 values need llama.cpp's own quantiser (`src.models.gguf.kquants`). Vectors stay float32. In files of 4
and 5 bits the token embeddings and the output layer stay at 8: SmolLM2-135M with all of it at Q4_0 is a third further
from the source (mean KL 0.48 instead of 0.37).
"""

from __future__ import annotations

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.weight_files import bytes_progress

# Names as llama.cpp spells them, in small letters, with its number of the file type.
PLAIN_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2}
K_TYPES = {"q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}
FILE_TYPES = {**PLAIN_TYPES, **K_TYPES}
FEW_BITS = ("q5_1", "q5_0", "q4_1", "q4_0")
KEPT_AT_8_BITS = ("token_embd.weight", "output.weight")
BLOCK = 32
CHUNK_VALUES = 2**22  # quantised at a time by each thread: 16 MB as float32


def check_file_type(file_type: str) -> None:
    """Raises `UserError` for a type that is not known, or needs a package that is not there."""
    if file_type not in FILE_TYPES:
        raise UserError(f"file_type={file_type} is not known: expected one of {', '.join(FILE_TYPES)}")
    if file_type in K_TYPES and importlib.util.find_spec("llama_cpp") is None:
        raise UserError(
            f"file_type={file_type} needs llama.cpp's quantiser: pip install llama-cpp-python (built from source by "
            "CMake and a C++ compiler, about ten minutes), or give q4_1, q5_1 or q8_0, which need nothing"
        )


def tensor_type(name: str, shape: tuple[int, ...], file_type: str) -> Any:
    """The type (``gguf.GGMLQuantizationType``) of one tensor in a file of a plain type."""
    from gguf import GGMLQuantizationType

    if len(shape) < 2 or not name.endswith(".weight"):
        return GGMLQuantizationType.F32
    if file_type in FEW_BITS and name in KEPT_AT_8_BITS:
        file_type = "q8_0"
    if file_type.startswith("q") and shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[file_type.upper()]


def byte_shape(shape: tuple[int, ...], kind: Any) -> tuple[int, ...]:
    """Shape in bytes of a tensor once it is of a type."""
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return (*shape[:-1], shape[-1] // block * size)


def quantized(values: np.ndarray, kind: Any, name: str = "a tensor") -> np.ndarray:
    """Values of any shape as bytes of a type, by several threads: NumPy leaves Python while it computes.

    Raises:
        UserError: a value is not a number, or too large for half precision.
    """
    from gguf import GGMLQuantizationType, quantize

    if not np.isfinite(values).all():
        raise UserError(f"{name} holds values that are not finite numbers: the model is damaged")
    if kind == GGMLQuantizationType.F16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise UserError(f"{name} holds values above 65504, too large for half precision: give file_type=bf16 or q8_0")
    if kind == GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, dtype=np.float32).view(np.uint8)
    if kind == GGMLQuantizationType.F16:
        return values.astype(np.float16).view(np.uint8)
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, CHUNK_VALUES // rows.shape[1])
    chunks = [rows[start : start + step] for start in range(0, len(rows), step)]
    with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
        done = list(pool.map(lambda chunk: quantize(chunk, kind).view(np.uint8), chunks))
    return np.concatenate(done).reshape(byte_shape(values.shape, kind))


def requantize(source: Path, target: Path, file_type: str) -> None:
    """Write the tensors of a GGUF file in another plain type; everything else of it stays.

    What the file holds as float32 although it has two dimensions (such as the choice of experts) stays float32.

    Raises:
        UserError: a type of the file can't be read here, or the file is one of several parts.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, dequantize

    reader = open_gguf(source)
    if "split.count" in reader.fields and reader.fields["split.count"].contents() > 1:
        raise UserError(f"'{source}' is one of several parts: join them with llama.cpp's llama-gguf-split --merge")
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    _copy_metadata(reader, writer, file_type)
    mixed = any(tensor.tensor_type != GGMLQuantizationType.F32 for tensor in reader.tensors)
    kinds = []
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        stays = mixed and tensor.tensor_type == GGMLQuantizationType.F32
        kinds.append(GGMLQuantizationType.F32 if stays else tensor_type(tensor.name, shape, file_type))
        nbytes = int(np.prod(byte_shape(shape, kinds[-1])))
        writer.add_tensor_info(tensor.name, byte_shape(shape, kinds[-1]), np.dtype(np.uint8), nbytes, kinds[-1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        with bytes_progress(f"writing {file_type}", sum(int(tensor.n_bytes) for tensor in reader.tensors)) as advance:
            for tensor, kind in zip(reader.tensors, kinds, strict=True):
                writer.write_tensor_data(quantized(dequantize(tensor.data, tensor.tensor_type), kind, tensor.name))
                advance(int(tensor.n_bytes))
    except NotImplementedError as error:
        raise UserError(f"'{source}' has tensors of a type that can't be read here ({error})") from error
    finally:
        writer.close()


def open_gguf(file: Path) -> Any:
    """A ``GGUFReader``. Raises `UserError` for what is no GGUF file."""
    from gguf import GGUFReader

    try:
        return GGUFReader(file)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"'{file}' cannot be read as GGUF ({error}): expected a file as llama.cpp writes it") from error


def _copy_metadata(reader: Any, writer: Any, file_type: str) -> None:
    from gguf import GGUFValueType

    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    writer.add_file_type(FILE_TYPES[file_type])
