"""From a Hugging Face folder to a GGUF file, llama.cpp's single-file format.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are read, arranged, quantised and written tensor by
tensor, so that memory is needed for the largest of them, not for the model. Nothing here imports torch, but for weights
that are pickles (``pytorch_model.bin``).

`gguf_file` and `gguf_adapter` keep what they make: the second call for the same model is a look into a folder.
"""

from __future__ import annotations

import json
import logging
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.atomic_folder import build_folder, digest, identity
from src.models.download import resolve
from src.models.gguf.architecture import Decoder, NotWrittenHereError, tensors_of
from src.models.gguf.convert import llama_config, metadata
from src.models.gguf.kquants import quantize_k
from src.models.gguf.lora import write_adapter
from src.models.gguf.packaged import TYPES as PACKAGED_TYPES
from src.models.gguf.packaged import convert_with_package
from src.models.gguf.quantize import (
    FILE_TYPES,
    K_TYPES,
    byte_shape,
    check_file_type,
    open_gguf,
    quantized,
    requantize,
    tensor_type,
)
from src.models.gguf.tokenizer import add_vocabulary, read_vocabulary
from src.models.load import check_adapter_folder
from src.models.spec import ModelSpec
from src.models.weight_files import WeightFiles, as_float32, bytes_progress

logger = logging.getLogger(__name__)

logging.getLogger("gguf.gguf_writer").setLevel(logging.WARNING)  # it reports each file it opens
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)  # it wonders about pairs of texts, which no decoder reads

EXPORTER_VERSION = 2  # part of the cache key: raise it when the files this module writes change
QUANTIZATION_VERSION = 2  # of the block formats, as llama.cpp counts
AS_IS = "as_is"
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's metadata types


def gguf_file(spec: ModelSpec, file_type: str = "q8_0") -> Path:
    """The GGUF file of a model for llama.cpp, made once under the spec's ``cache_dir``.

    A ``.gguf`` file that the spec names is used where it is if it has this type already, or for ``as_is``. Safe when
    several processes ask at once.

    Raises:
        UserError: the type or the architecture is not known, or the model has random weights.
    """
    given = Path(spec.path).resolve() if spec.kind == "gguf" and spec.path else None
    if file_type == AS_IS:
        if given is None:
            raise UserError(f"model '{spec.name}' is no .gguf file: give one of {', '.join(FILE_TYPES)} as its type")
        return given
    if given is not None and stored_type(given) == file_type:
        return given
    check_file_type(file_type)
    if spec.kind == "config":
        raise UserError(
            f"model '{spec.name}' has random weights, others each time it is loaded: export it and give the folder"
        )
    if not spec.cache_dir:
        raise UserError(f"model '{spec.name}' has no cache_dir to keep its GGUF file in: set model.cache_dir")
    source = given or resolve(spec)
    key = digest([identity(source), file_type, EXPORTER_VERSION])[:12]
    name = f"{spec.name}-{file_type}.gguf"

    def build(work: Path) -> None:
        logger.info("writing %s for llama.cpp, once", name)
        if given is None:
            write_gguf(source, work / name, file_type, {"name": spec.name, "license": spec.license})
        else:
            (quantize_k if file_type in K_TYPES else requantize)(given, work / name, file_type)

    return build_folder(Path(spec.cache_dir) / f"{spec.name}-{file_type}-{key}", build) / name


def gguf_adapter(adapter_path: str | Path, spec: ModelSpec, cache_dir: str | Path) -> Path:
    """A PEFT LoRA folder as GGUF adapter for llama.cpp, made once under `cache_dir`. spec: the model it is for.

    Raises:
        UserError: the adapter is of a kind that llama.cpp does not have (merge it first), or for another model.
    """
    folder, base = Path(adapter_path).resolve(), base_config(spec)
    check_adapter_folder(folder)
    key = digest([identity(folder), base, EXPORTER_VERSION])[:12]
    name = f"{folder.name}.gguf"
    target = Path(cache_dir) / f"{folder.name}-adapter-{key}"
    return build_folder(target, lambda work: write_adapter(folder, base, work / name)) / name


def base_config(spec: ModelSpec) -> dict[str, Any]:
    """What a model's ``config.json`` says; of a Llama in a GGUF file without converting its weights."""
    if spec.kind == "gguf" and spec.path:
        reader = open_gguf(Path(spec.path))
        if metadata(reader, "general.architecture") == "llama":
            return llama_config(reader)
    config: dict[str, Any] = json.loads((resolve(spec) / "config.json").read_text(encoding="utf-8"))
    return config


def write_gguf(source: str | Path, file: Path, file_type: str = "q8_0", about: dict[str, str] | None = None) -> None:
    """Write the model of a Hugging Face folder as a GGUF file.

    about: ``name``, ``license`` and the like, for the file's general part. An architecture or tokenizer that is not
    known here is left to llama.cpp's packaged converter, where that is installed.

    Raises:
        UserError: the folder lacks something, or holds a model that can't be written as GGUF.
    """
    source = Path(source)
    check_file_type(file_type)
    direct = file_type not in K_TYPES
    first = file if direct else file.with_name(f".{file.stem}.plain.gguf")
    try:
        try:
            plain_type = file_type if direct else lossless_type(source)
            _write_plain(source, first, plain_type, about or {})
        except NotWrittenHereError as reason:
            _write_packaged(source, first, plain_type, str(reason))
        if not direct:
            quantize_k(first, file, file_type)
    finally:
        if not direct:
            first.unlink(missing_ok=True)


def lossless_type(source: Path) -> str:
    """The smallest plain type that holds a folder's matrices without a change: f16, bf16 or f32."""
    kinds = {tensor.dtype for tensor in WeightFiles(source).tensors.values() if len(tensor.shape) > 1}
    return {"F16": "f16", "BF16": "bf16"}.get(next(iter(kinds)), "f32") if len(kinds) == 1 else "f32"


def _write_plain(source: Path, file: Path, file_type: str, about: dict[str, str]) -> None:
    import gguf

    weights = WeightFiles(source)
    decoder = Decoder(json.loads((source / "config.json").read_text(encoding="utf-8")), source)
    plan = _plan(weights, decoder, file_type)
    vocabulary = read_vocabulary(source, decoder.vocab_size)
    writer = gguf.GGUFWriter(file, decoder.architecture.name)
    _add_general(writer, about, file_type)
    decoder.add_metadata(writer)
    add_vocabulary(writer, vocabulary, source)
    extra = decoder.extra_tensors()
    for name, values in extra.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for name, (stored, kind) in plan.items():
        shape = byte_shape(weights.tensors[stored].shape, kind)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        with bytes_progress(f"writing {file_type}", weights.nbytes) as advance:
            for values in extra.values():
                writer.write_tensor_data(values)
            for stored, kind in plan.values():
                tensor = weights.tensors[stored]
                values = as_float32(weights.read(stored), tensor.dtype)
                writer.write_tensor_data(quantized(decoder.arrange(stored, values), kind, stored))
                advance(tensor.nbytes)
    finally:
        writer.close()


def _write_packaged(source: Path, file: Path, file_type: str, reason: str) -> None:
    if file_type in PACKAGED_TYPES:
        convert_with_package(source, file, file_type, reason)
        return
    first = file.with_name(f".{file.stem}.packaged.gguf")
    try:
        convert_with_package(source, first, lossless_type(source), reason)
        requantize(first, file, file_type)
    finally:
        first.unlink(missing_ok=True)


def stored_type(file: str | Path) -> str | None:
    """The type a GGUF file says it has, such as ``q8_0``; None for one that is not written here.

    Raises:
        UserError: it is no GGUF file.
    """
    file = Path(file)
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            number = _metadata_number(content, b"general.file_type")
    except (ValueError, KeyError, struct.error, OSError) as error:
        raise UserError(f"'{file}' cannot be read as GGUF ({error}): expected a file as llama.cpp writes it") from error
    return {value: name for name, value in FILE_TYPES.items()}.get(number)


def _metadata_number(content: mmap.mmap, key: bytes) -> int:
    """One unsigned number of a GGUF file's metadata, -1 if it is not there; ``GGUFReader`` would read it all."""
    magic, version, _, pairs = struct.unpack_from("<4sIQQ", content)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("it does not begin as one of version 2 or 3")
    place = 24
    for _ in range(pairs):
        (length,) = struct.unpack_from("<Q", content, place)
        name = content[place + 8 : place + 8 + length]
        (kind,) = struct.unpack_from("<I", content, place + 8 + length)
        place += 12 + length
        if name == key:
            return int(struct.unpack_from("<I", content, place)[0])
        place = _end_of_value(content, place, kind)
    return -1


def _end_of_value(content: mmap.mmap, place: int, kind: int) -> int:
    if kind == 8:  # string
        return place + 8 + int(struct.unpack_from("<Q", content, place)[0])
    if kind == 9:  # array
        kind, count = struct.unpack_from("<IQ", content, place)
        place += 12
        if kind not in (8, 9):
            return place + count * VALUE_BYTES[kind]
        for _ in range(count):
            place = _end_of_value(content, place, kind)
        return place
    return place + VALUE_BYTES[kind]


def _plan(weights: WeightFiles, decoder: Decoder, file_type: str) -> dict[str, tuple[str, Any]]:
    """llama.cpp's name of each tensor of the file to be, the stored one it is made of, and its type."""
    plan: dict[str, tuple[str, Any]] = {}
    for name, tensor in tensors_of(decoder, weights).items():
        if name == "token_embd.weight" and tensor.shape != (decoder.vocab_size, decoder.hidden):
            raise UserError(
                f"{tensor.name} of '{weights.folder}' has shape {list(tensor.shape)}, and config.json says "
                f"{[decoder.vocab_size, decoder.hidden]}: the folder is of two models"
            )
        plan[name] = (tensor.name, tensor_type(name, tensor.shape, file_type))
    blocks = [sorted(n.split(".", 2)[2] for n in plan if n.startswith(f"blk.{i}.")) for i in range(decoder.layers)]
    needed = {"token_embd.weight", "output_norm.weight"} | (set() if decoder.tied else {"output.weight"})
    if (absent := needed - plan.keys()) or any(block != blocks[0] for block in blocks) or not blocks[0]:
        what = ", ".join(sorted(absent)) or "tensors of some of its blocks"
        raise UserError(f"the weights of '{weights.folder}' lack {what}: copy or download the folder again")
    return plan


def _add_general(writer: Any, about: dict[str, str], file_type: str) -> None:
    writer.add_type("model")
    if about.get("name"):
        writer.add_name(about["name"])
    if about.get("license", "unknown") != "unknown":
        writer.add_license(about["license"])
    writer.add_file_type(FILE_TYPES[file_type])
    writer.add_quantization_version(QUANTIZATION_VERSION)
