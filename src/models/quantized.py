"""Models whose weights take 8 or 4 bits, for generation: which way on which device, and checkpoints that are so already.

On a GPU ``8bit`` is LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) and ``4bit`` is NF4 with quantised scales
(Dettmers et al. 2023, arXiv:2305.14314), both by bitsandbytes.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from src.errors import UserError

if TYPE_CHECKING:
    import torch

QUANTIZATIONS = ("none", "8bit", "4bit")
# Packages that transformers needs to load a checkpoint quantised this way: module name and what pip calls it.
PACKAGES = {
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "auto-round": {"auto_round": "auto-round"},
    "hqq": {"hqq": "hqq"},
    "torchao": {"torchao": "torchao"},
}


def check_quantization(quantization: str | None, device: str) -> str:
    """The name of a way to quantise that works on this device.

    Raises:
        UserError: it is not known, doesn't work there, or its package is missing.
    """
    name = "none" if quantization in (None, False, "") else str(quantization)
    if name not in QUANTIZATIONS:
        raise UserError(f"quantization={quantization} is not known: set {', '.join(QUANTIZATIONS)}")
    if name != "none" and device == "mps":
        raise UserError(f"quantization={name} does not run on mps: set quantization=none or device=cpu")
    if name != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"quantization={name} needs the package bitsandbytes: pip install -e '.[quantization]', or "
            "quantization=none"
        )
    return name


def bitsandbytes_settings(quantization: str, compute_dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of ``from_pretrained``."""
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    }
