"""What the machine can do: devices at hand, the precision that suits them, the peak they can reach."""

import os
import socket
import time
from dataclasses import dataclass
from typing import NoReturn

import torch

from src.errors import UserError
from src.models.devices import cpu_has_bf16, gpu_has_bf16
from src.strategies.launch import Launch, find_launch

# Dense peak of matrix products in FLOP/s by a part of the device's name, from the makers' data sheets: bf16, or fp16
# on V100, which has no bf16.
GPU_PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H20": 148e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
    "MI325X": 1307e12,
    "MI300X": 1307e12,
    "MI250X": 192e12,  # of one of its two dies, which PyTorch sees as a device
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


def check_hardware(accelerator: str, devices: int | str, num_nodes: int | str, needs: str = "") -> Hardware:
    """The devices a run will use.

    Args:
        accelerator: cpu, gpu or auto.
        devices: on each node; ``auto`` takes what the launcher started, else every GPU, or one process on the CPU.
        num_nodes: ``auto`` takes what the launcher started, else 1.
        needs: what the experiment was made for, said in the error.

    Raises:
        UserError: the GPUs are not there, the launcher started another number of processes, or several nodes are wanted
            and nothing says which one this is; says what to do instead.
    """
    launch = find_launch()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator not in {"cpu", "gpu"}:
        raise UserError(f"trainer.accelerator must be cpu, gpu or auto, found {accelerator!r}")
    if devices == "auto":
        devices = (max(gpus, 1) if accelerator == "gpu" else 1) if launch is None else launch.local_world_size
    if num_nodes == "auto":
        num_nodes = 1 if launch is None else launch.nodes
    for name, value in (("devices", devices), ("num_nodes", num_nodes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"trainer.{name} must be auto or a whole number of at least 1, found {value!r}")
    assert isinstance(devices, int) and isinstance(num_nodes, int)
    if launch is not None:
        _check_launch(launch, devices, num_nodes)
    if accelerator == "gpu" and gpus < devices:
        _missing_gpus(gpus, devices, num_nodes, needs, launch)
    if launch is None and num_nodes > 1:
        _check_by_hand(num_nodes)
    return Hardware(accelerator, devices, num_nodes)


def _check_launch(launch: Launch, devices: int, num_nodes: int) -> None:
    """Raises `UserError` where a launcher started another number of processes than the trainer is to use."""
    if devices * num_nodes == launch.world_size and devices == launch.local_world_size:
        return
    raise UserError(
        f"{launch.launcher} started {launch.world_size} processes, {launch.local_world_size} on "
        f"{socket.gethostname()}, and trainer.num_nodes={num_nodes} trainer.devices={devices} makes "
        f"{num_nodes * devices}: give trainer.num_nodes={launch.nodes} trainer.devices={launch.local_world_size}, or "
        "start another number"
    )


def _missing_gpus(gpus: int, devices: int, num_nodes: int, needs: str, launch: Launch | None) -> NoReturn:
    here = f"{gpus or 'no'} GPU{'s' if gpus > 1 else ''}"
    if launch is not None:
        raise UserError(
            f"{launch.launcher} started {launch.local_world_size} processes on {socket.gethostname()}, which shows "
            f"{here} to them: each process must see all GPUs of its node (Slurm: --gpus-per-node, not "
            "--gpus-per-task), or give trainer.accelerator=cpu"
        )
    raise UserError(
        f"this run needs {needs or f'{num_nodes} × {devices} GPUs'} and this machine, {socket.gethostname()}, has "
        f"{here}: run experiment=pretrain_demo or experiment=sft_demo here, or fit it with trainer=cpu or "
        "trainer.devices=…"
    )


def _check_by_hand(num_nodes: int) -> None:
    """Raises `UserError` where several nodes are wanted and no launcher says which one this is."""
    if "MASTER_ADDR" in os.environ and "NODE_RANK" in os.environ:
        if not 0 <= int(os.environ["NODE_RANK"]) < num_nodes:
            raise UserError(
                f"NODE_RANK={os.environ['NODE_RANK']} and trainer.num_nodes={num_nodes}: nodes are numbered from 0 to "
                f"{num_nodes - 1}"
            )
        return
    if "SLURM_JOB_ID" in os.environ:
        raise UserError(
            f"this run spreads over {num_nodes} nodes and was started once in a Slurm job: start it with srun, one "
            "task for each GPU, as scripts/launch/pretrain_zh.sbatch does"
        )
    raise UserError(
        f"this run spreads over {num_nodes} nodes and nothing says which one this is: start it on each node with srun, "
        "torchrun or deepspeed, or with MASTER_ADDR and NODE_RANK set, or give trainer.num_nodes=1"
    )


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
