"""What the machine can do: devices at hand, the precision that suits them, the peak they can reach."""

import os
import time
from dataclasses import dataclass

import torch

from src.errors import UserError
from src.models.devices import cpu_has_bf16, gpu_has_bf16

# Dense peak of matrix products in FLOP/s by a part of the device's name, from the makers' data sheets: bf16, or fp16
# on V100, which has no bf16.
GPU_PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}


@dataclass(frozen=True)
class Hardware:
    """Devices that a trainer config asks for on each node, and nodes."""

    accelerator: str
    devices: int
    num_nodes: int

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes


def check_hardware(accelerator: str, devices: int | str, num_nodes: int, needs: str = "") -> Hardware:
    """The devices a run will use.

    Args:
        accelerator: cpu, gpu or auto.
        devices: on each node; ``auto`` takes every GPU, or one process on the CPU.
        needs: what the experiment was made for, said in the error.

    Raises:
        UserError: the GPUs are not there, or several nodes without a launcher; says what to do instead.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator not in {"cpu", "gpu"}:
        raise UserError(f"trainer.accelerator must be cpu, gpu or auto, found {accelerator!r}")
    if devices == "auto":
        devices = max(gpus, 1) if accelerator == "gpu" else 1
    if not isinstance(devices, int) or devices < 1:
        raise UserError(f"trainer.devices must be auto or a whole number of at least 1, found {devices!r}")
    if accelerator == "gpu" and gpus < devices:
        wanted = needs or f"{num_nodes} × {devices} GPUs"
        raise UserError(
            f"this run needs {wanted} and this machine has {gpus or 'no'} GPU{'s' if gpus > 1 else ''}: "
            "run experiment=pretrain_demo or experiment=sft_demo here, or fit it with trainer=cpu or trainer.devices=…"
        )
    launchers = ({"SLURM_JOB_ID"}, {"TORCHELASTIC_RUN_ID"}, {"MASTER_ADDR", "NODE_RANK"})
    if num_nodes > 1 and not any(names <= os.environ.keys() for names in launchers):
        raise UserError(
            f"this run spreads over {num_nodes} nodes and nothing says which one this is: start it on each node with "
            "srun or torchrun, or with MASTER_ADDR and NODE_RANK set, or give trainer.num_nodes=1"
        )
    return Hardware(accelerator, devices, num_nodes)


def suitable_precision(accelerator: str) -> str:
    """bf16 where the hardware multiplies it natively, fp16 on older GPUs, else fp32: fp16 is unusably slow on a CPU."""
    if accelerator == "gpu":
        return "bf16-mixed" if gpu_has_bf16() else "16-mixed"
    return "bf16-mixed" if cpu_has_bf16() else "32-true"


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of one device at best: the data sheet's for known GPUs, a measured matrix product elsewhere."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, flops in GPU_PEAK_FLOPS.items():
            if part in name:
                return flops
    dtype = torch.float32 if precision.startswith("32") else torch.bfloat16
    return measured_flops(device, dtype)


def measured_flops(device: torch.device, dtype: torch.dtype, size: int = 2048, rounds: int = 3) -> float:
    """FLOP/s of a square matrix product, the best of a few rounds (0.2 s on two cores)."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
