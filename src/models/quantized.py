"""Models whose weights take 8 or 4 bits, for generation: which way on which device; checkpoints that are so already.

On a GPU ``8bit`` is LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) and ``4bit`` is NF4 with quantised scales
(Dettmers et al. 2023, arXiv:2305.14314), both by bitsandbytes. On a CPU, where its int8 is slower than bfloat16 and its
NF4 loses much (``docs/loading.md``), they are the layers of `src.models.cpu_linear`. Embeddings and norms stay as they
are; the head too on a GPU, and is 8 bits on a CPU.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from src.errors import UserError

if TYPE_CHECKING:
    import torch

QUANTIZATIONS = ("none", "8bit", "4bit")
TRAINING_QUANTIZATIONS = ("nf4", "fp4")
# What transformers needs to load a checkpoint of each method: the modules, and what pip calls them.
CHECKPOINT_PACKAGES = {
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "auto-round": {"auto_round": "auto-round"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "torchao": {"torchao": "torchao"},
}


def check_quantization(quantization: str | None, device: str) -> str:
    """The name of a way to quantise that works on this device; ``none`` for None.

    Raises:
        UserError: it is not known, doesn't work there, or its package is missing.
    """
    name = "none" if quantization is None else str(quantization)
    if name not in QUANTIZATIONS:
        raise UserError(f"quantization={quantization} is not known: set {', '.join(QUANTIZATIONS)}")
    if name == "none":
        return name
    if device.startswith("cuda"):
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                f"quantization={name} on a GPU needs the package bitsandbytes: pip install -e '.[quantization]', or "
                "set quantization=none"
            )
        return name
    import torch

    if device != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        raise UserError(
            f"quantization={name} needs a CUDA device or an x86 CPU, and this is {device}: set quantization=none, or "
            "engine=llamacpp, which has 8 and 4 bits of its own"
        )
    return name


def compute_dtype(quantization: str, device: str) -> str | None:
    """The dtype that the layers of a quantised model are fastest in; None where that is the device's own."""
    return "float32" if (quantization, device) == ("8bit", "cpu") else None


def layer_bits(quantization: str, on_cpu: bool, checkpoint: dict[str, Any] | None = None) -> float | None:
    """Bits that a weight of a decoder layer's matrix takes, scales included; None for those of the dtype.

    Left out is int8's one scale for each output. NF4 has for each 64 weights a scale of 8 bits that is itself scaled;
    ours has 16 bits of scale and 16 of offset for each 32; GPTQ and AWQ a scale of 16 bits and a zero point for each
    group.

    Args:
        checkpoint: the ``quantization_config`` of one that is quantised already.
    """
    names = {"8bit": 8.0, "4bit": 5.0 if on_cpu else 4.127}
    if quantization != "none":
        return names[quantization]
    if checkpoint is None:
        return None
    for name in names:
        if checkpoint.get(f"load_in_{name}"):
            return {"8bit": 8.0, "4bit": 4.127}[name]
    bits, group = checkpoint.get("bits"), checkpoint.get("group_size", 128)
    return None if bits is None else bits + ((16 + bits) / group if group > 0 else 0)


def head_bits(quantization: str, on_cpu: bool) -> float | None:
    """Bits of a weight of the head, which then has weights of its own even where it is tied; None: as the embedding."""
    return 8.0 if quantization != "none" and on_cpu else None


def quantized_settings(quantization: str, dtype: torch.dtype, on_cpu: bool) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantise weights while they are read."""
    if on_cpu:
        from src.models.cpu_quantizer import CpuQuantization

        return {"quantization_config": CpuQuantization(bits=8 if quantization == "8bit" else 4)}
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return _four_bits("nf4", dtype)


def training_settings(quantization: str, dtype: torch.dtype, random: bool = False) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for frozen weights of 4 bits under an adapter (QLoRA); on a CPU too.

    Raises:
        UserError: a quantisation that is not known, no bitsandbytes, or random weights.
    """
    if quantization not in TRAINING_QUANTIZATIONS:
        known = ", ".join(TRAINING_QUANTIZATIONS)
        raise UserError(f"module.quantization must be null or {known}, found {quantization!r}")
    if random:
        raise UserError(
            "module.quantization is for pretrained weights and these are random: give module.quantization=null"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "module.quantization needs the package bitsandbytes: pip install -e '.[quantization]', "
            "or give module.quantization=null"
        )
    return _four_bits(quantization, dtype)


def _four_bits(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config}


def check_checkpoint(config: dict[str, Any], name: str, quantization: str = "none") -> None:
    """Raise `UserError` for a quantised checkpoint that can't be loaded here, from its ``config.json``."""
    stored = config.get("quantization_config")
    if not stored:
        return
    method = str(stored.get("quant_method", "bitsandbytes"))
    bits = f" ({stored['bits']} bits)" if "bits" in stored else ""
    if quantization != "none":
        raise UserError(
            f"model '{name}' is quantised already by {method}{bits}: leave quantization={quantization} out, or give "
            "the model it was made of"
        )
    missing = [pip for module, pip in CHECKPOINT_PACKAGES.get(method, {}).items() if not _installed(module)]
    if missing:
        raise UserError(
            f"model '{name}' is quantised by {method}{bits}, and to load it transformers needs {' and '.join(missing)}"
            f": pip install {' '.join(missing)}, or give the model it was made of with quantization=8bit or 4bit"
        )


def _installed(module: str) -> bool:
    parent = module.partition(".")[0]
    if importlib.util.find_spec(parent) is None:
        return False
    return parent == module or importlib.util.find_spec(module) is not None
