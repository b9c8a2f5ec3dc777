"""``torch.compile`` of the decoder, as a whole or layer by layer, with names of weights left as they are."""

from typing import Any

import torch
from torch import nn

from src.errors import UserError
from src.models.activation_checkpointing import decoder_layers


def check_compile(setting: Any, device: torch.device) -> None:
    """Raises `UserError` where ``module.compile`` is not a known value or nothing here can compile."""
    if setting not in (False, True, "regional"):
        raise UserError(f"module.compile must be false, true or regional, found {setting!r}")
    if setting and (missing := _missing_compiler(device)):
        raise UserError(f"module.compile={str(setting).lower()} needs {missing}, or give module.compile=false")


def compile_model(model: nn.Module, setting: bool | str) -> None:
    """Compile the decoder of a transformers model in place, at its first call.

    Args:
        setting: True: the whole decoder as one program; ``regional``: one decoder layer, whose program all layers
            share: compiled in a fraction of the time and nearly as fast. False: nothing.
    """
    if setting == "regional":
        for layer in decoder_layers(model):
            layer.compile()
    elif setting:
        getattr(model, "base_model", model).compile()


def _missing_compiler(device: torch.device) -> str:
    """What has to be installed before TorchInductor can compile for a device; empty where nothing has."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return "a C++ compiler: install g++, or name one in the environment variable CXX"
    if device.type == "cuda" and not has_triton():
        return "Triton: pip install triton"
    return ""
