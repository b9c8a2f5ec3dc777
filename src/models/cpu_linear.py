"""Linear layers whose weights take 8 or 4 bits and that a CPU multiplies without making floats of them again.

Both use kernels that PyTorch itself brings. What was measured against bfloat16 and against bitsandbytes on a CPU, and
why it is these: ``benchmarks/quantized_loading.py``, ``docs/loading.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

GROUP = 32  # inputs that share a scale and an offset in 4 bits


class Int8Linear(nn.Linear):
    """Weights of 8 bits with a scale for each output; the products are of integers (FBGEMM).

    A row of activations has a few values far above the others, and 8 bits for the whole row would leave the others
    next to nothing. So a row becomes two rows of integers, the values in 127ths of the largest, rounded, and what the
    rounding left off in 127ths of its largest, which together have 16 bits. Both rows meet the weights in one product,
    which reads the weights once, so that one stream is hardly slower for it.

    Args:
        weight: ``[out, in]`` in any floating dtype. It is not kept.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.int8), requires_grad=False)  # adapters ask for its device
        # Before VNNI the kernel adds pairs of products in 16 bits, which hold them only if activations have 7.
        self.reduce_range = not torch.cpu._is_vnni_supported()
        self.steps = 63 if self.reduce_range else 127
        # The kernel takes the grid of the activations from their smallest and largest value. Two more inputs, without
        # weight, hold the ends of the grid that is wanted, so that whole numbers stay what they are.
        integers, scales = _rounded(nn.functional.pad(weight.detach().float(), (0, 2)))
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings(), _fbgemm():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")  # that they will go
            quantized = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(quantized, None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features).float()
        count, width, steps = len(rows), self.in_features, self.steps
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-30).div_(steps)
        rows = rows / scale
        whole = rows.round()
        planes = rows.new_empty(2 * count, width + 2)
        planes[:, width], planes[:, width + 1] = -steps - 1, steps
        planes[:count, :width] = whole
        planes[count:, :width] = rows.sub_(whole).mul_(2 * steps)
        both = torch.ops.quantized.linear_dynamic(planes, self.packed, self.reduce_range)
        output = both[:count].add_(both[count:], alpha=1 / (2 * steps)).mul_(scale)
        output = output.view(*input.shape[:-1], self.out_features).to(input.dtype)
        return output if self.bias is None else output + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits=8"


class Int4Linear(nn.Linear):
    """Weights of 4 bits in groups of `GROUP` inputs with a scale and an offset each, 5 bits a weight all told.

    The kernel multiplies in the activations' dtype, and is fast in bfloat16 only. `fits` says which shapes it takes.

    Args:
        weight: ``[out, in]`` in any floating dtype. It is not kept.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.int8), requires_grad=False)
        groups = weight.detach().float().view(self.out_features, -1, GROUP)
        low = groups.amin(dim=2)
        step = ((groups.amax(dim=2) - low) / 15).clamp(min=1e-30)
        integers = ((groups - low[..., None]) / step[..., None]).round_().to(torch.int32).view(weight.shape)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 1)
        self.grid = torch.stack([step, low + 8 * step], dim=-1).transpose(0, 1).contiguous()

    @staticmethod
    def fits(weight: torch.Tensor) -> bool:
        """Whether the kernel takes a matrix of this shape."""
        return weight.ndim == 2 and weight.shape[0] % 16 == 0 and weight.shape[1] % GROUP == 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.grid.dtype != input.dtype:
            self.grid = self.grid.to(input.dtype)
        rows = input.reshape(-1, self.in_features)
        output = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.grid)
        output = output.view(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits=4"


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as 8-bit integers, and the scale of each row."""
    scales = weight.abs().amax(dim=1).clamp(min=1e-30) / 127
    return (weight / scales[:, None]).round_().to(torch.int8), scales


@contextmanager
def _fbgemm() -> Iterator[None]:
    """Weights are packed for the engine that is set; the default one chooses a slower one for some shapes."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
