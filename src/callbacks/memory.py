"""Memory of this process: what the GPU has given out, and what the host holds for it."""

import resource
import sys
from pathlib import Path

import torch

GB = 1e9


def memory_gb(device: torch.device) -> dict[str, float]:
    """Gigabytes (10⁹ bytes) in use now and at most so far.

    On a GPU ``memory/gpu`` is what tensors take, ``memory/gpu_peak`` the most they took and ``memory/gpu_reserved``
    what PyTorch holds of the device, with its unused blocks; ``memory/host`` is resident host memory. Asking the
    allocator does not wait for the device.
    """
    found = {}
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)
        found["memory/gpu_gb"] = stats.get("allocated_bytes.all.current", 0) / GB
        found["memory/gpu_peak_gb"] = stats.get("allocated_bytes.all.peak", 0) / GB
        found["memory/gpu_reserved_gb"] = stats.get("reserved_bytes.all.current", 0) / GB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found["memory/host_gb"] = resident_bytes(peak) / GB
    found["memory/host_peak_gb"] = peak / GB
    return found


def resident_bytes(otherwise: int) -> int:
    """Host memory of this process now; ``otherwise`` where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return otherwise
