"""What the processor can multiply, for everything that chooses a number format."""

import torch


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 dot products (AVX512-BF16 or AMX); without them bf16 is emulated and slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def gpu_has_bf16() -> bool:
    """Whether the current GPU multiplies bf16 natively (Ampere and later)."""
    return torch.cuda.is_bf16_supported(including_emulation=False)
