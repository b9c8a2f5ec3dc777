"""What the devices of this machine can do and how much memory is free, for everything that chooses by it."""

import torch


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 dot products (AVX512-BF16 or AMX); without them bf16 is emulated and slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def gpu_has_bf16() -> bool:
    """Whether the current GPU multiplies bf16 natively (Ampere and later)."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def visible_gpus() -> int:
    """CUDA devices that PyTorch can use; ``CUDA_VISIBLE_DEVICES`` counts."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def free_gpu_bytes(index: int) -> int:
    """Bytes of a GPU that no process holds."""
    return int(torch.cuda.mem_get_info(index)[0])


def free_host_bytes() -> int:
    """Bytes of host memory that programs can have without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
