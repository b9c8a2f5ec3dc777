"""GPUs by name: peak, memory, links, and what an hour costs. For estimates without the device at hand.

Peaks are those of `src.strategies.hardware`. Memory is what the driver shows, a little less than the name says. Links
are rates that large collectives reach in practice, about three quarters of the data sheet: NVLink within a node (PCIe
where there is none), in bytes a second and direction for each GPU. Prices are round numbers of large clouds on demand
in 2025; give your own with ``preflight.price_per_gpu_hour``.
"""

import re
from dataclasses import dataclass

from src.errors import UserError
from src.strategies.hardware import GPU_PEAK_FLOPS

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Args:
        peak_flops: dense bf16, or fp16 where there is no bf16, in FLOP/s.
        memory: bytes that can be used.
        link: bytes/s between GPUs of a node.
        host_link: bytes/s between GPU and host memory.
        dollars_per_hour: of one GPU.
        bf16: whether it multiplies bf16.
    """

    name: str
    peak_flops: float
    memory: int
    link: float
    host_link: float
    dollars_per_hour: float
    bf16: bool = True


def _gpu(name: str, gib: float, link: float, host_link: float, dollars: float, bf16: bool = True) -> Gpu:
    peak = next(flops for part, flops in GPU_PEAK_FLOPS.items() if part.replace(" ", "-") in name)
    return Gpu(name, peak, int(gib * GIB), link, host_link, dollars, bf16)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("V100-16GB", 15.8, 110e9, 11e9, 2.5, bf16=False),
        _gpu("V100-32GB", 31.7, 110e9, 11e9, 3.0, bf16=False),
        _gpu("A100-40GB", 39.4, 230e9, 22e9, 2.5),
        _gpu("A100-80GB", 79.2, 230e9, 22e9, 3.0),
        _gpu("H100-PCIe-80GB", 79.2, 45e9, 45e9, 3.0),
        _gpu("H100-80GB", 79.2, 340e9, 45e9, 4.0),
        _gpu("H200-141GB", 139.8, 340e9, 45e9, 5.0),
        _gpu("H800-80GB", 79.2, 150e9, 45e9, 4.0),
        _gpu("A800-80GB", 79.2, 150e9, 22e9, 3.0),
        _gpu("L40S-48GB", 44.5, 22e9, 22e9, 1.5),
        _gpu("L4-24GB", 22.2, 11e9, 11e9, 0.8),
        _gpu("A10-24GB", 22.2, 22e9, 22e9, 1.0),
        _gpu("RTX-4090-24GB", 23.5, 22e9, 22e9, 0.5),
        _gpu("RTX-3090-24GB", 23.5, 22e9, 22e9, 0.3),
        _gpu("T4-16GB", 14.6, 11e9, 11e9, 0.5, bf16=False),
    )
}


def find_gpu(name: str) -> Gpu:
    """A GPU by its name here.

    Raises:
        UserError: it is not in the table.
    """
    if name not in GPUS:
        raise UserError(f"preflight.gpu={name} is not known; choose one of {', '.join(GPUS)}")
    return GPUS[name]


def gpu_present() -> Gpu | None:
    """The entry for the GPUs of this machine; None where there are none.

    Raises:
        UserError: they are not in the table.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    return most_like(name, memory)


def most_like(name: str, memory: int) -> Gpu:
    """The entry for a GPU that calls itself so, such as ``NVIDIA A100-SXM4-80GB``, with so many bytes.

    Raises:
        UserError: there is none.
    """
    words = set(re.split(r"[\s-]+", name.upper()))
    alike = [gpu for gpu in GPUS.values() if words.issuperset(gpu.name.upper().split("-")[:-1])]
    if not alike:
        raise UserError(
            f"the GPU of this machine, {name}, is not in the table of preflight: say which is most like it with "
            f"preflight.gpu=…, one of {', '.join(GPUS)}"
        )
    return min(alike, key=lambda gpu: abs(gpu.memory - memory))
