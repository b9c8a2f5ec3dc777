"""Cross-entropy fused with the language-model head: the logits of all tokens never exist at once.

The head turns ``[tokens, hidden]`` into ``[tokens, vocabulary]``, which is 50 to 100 times wider. Here it runs over
chunks of tokens, and the gradients of the hidden states and of the head's weight are formed while a chunk's logits are
at hand, so that the backward pass only multiplies by a number (the idea of Liger kernels, Hsu et al. 2024,
arXiv:2410.10989; exact, not an approximation).

The chunks run inside the head *module's* own call, so that hooks on it (ZeRO-3's and FSDP2's gathering of its weight)
work as for any other layer.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from src.errors import UserError

NAMES = ("auto", "chunked", "liger", "full")


@dataclass(frozen=True)
class LossKernel:
    """How the loss of a plain linear head is computed; the number is the same up to rounding.

    Args:
        name: ``chunked`` here; ``liger``: Triton kernels of the package liger-kernel, on CUDA only; ``full``: all
            logits at once; ``auto``: liger where it is installed and the model is on CUDA, else chunked.
        chunk_tokens: tokens whose logits exist at the same time, for ``chunked``.
    """

    name: str = "auto"
    chunk_tokens: int = 512

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"module.loss must be one of {', '.join(NAMES)}, found {self.name!r}")
        if isinstance(self.chunk_tokens, bool) or not isinstance(self.chunk_tokens, int) or self.chunk_tokens < 1:
            raise UserError(
                f"module.loss_chunk_tokens must be a whole number of at least 1, found {self.chunk_tokens!r}"
            )
        if self.name == "liger":
            if not has_liger():
                raise UserError(
                    "module.loss=liger needs the package liger-kernel: pip install -e '.[gpu]', "
                    "or give module.loss=chunked"
                )
            if not torch.cuda.is_available():
                raise UserError("module.loss=liger runs on CUDA only and there is none here: give module.loss=chunked")

    def on(self, hidden: Tensor) -> str:
        """The kernel that ``auto`` means for hidden states like these."""
        if self.name != "auto":
            return self.name
        return "liger" if hidden.is_cuda and _dtype(hidden) != torch.float16 and has_liger() else "chunked"


@functools.cache
def has_liger() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None


def head_losses(
    head: nn.Module, hidden: Tensor, targets: Tensor, kernel: LossKernel | None = None
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of targets, in nats: its sum with a gradient, and each without one.

    Args:
        head: a linear layer without bias; any other module is called as it is, on all tokens at once.
        hidden: ``[tokens, hidden]``; may be empty.
        targets: ``[tokens]``, int64, none ignored.

    Returns:
        a scalar and ``[tokens]``, float32 (float64 for float64).
    """
    kernel = kernel or LossKernel()
    if kernel.on(hidden) == "full" or not _teach(head):
        losses = F.cross_entropy(_upcast(head(hidden)), targets, reduction="none")
        return losses.sum(), losses.detach()
    return head(hidden, targets, kernel)


def _teach(head: nn.Module) -> bool:
    """Let a plain linear layer answer ``head(hidden, targets, kernel)`` too; False where it is not a plain one.

    The instance's forward is replaced and not the module: names of weights, hooks and FSDP2's change of the class stay.
    """
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward or head.bias is not None:
        return False
    forward = vars(head).get("forward")
    if forward is None:
        head.forward = functools.partial(_head_forward, head)  # type: ignore[method-assign]
        return True
    return isinstance(forward, functools.partial) and forward.func is _head_forward


def _head_forward(head: nn.Linear, hidden: Tensor, targets: Tensor | None = None, kernel: Any = None) -> Any:
    if targets is None:
        return F.linear(hidden, head.weight)
    if kernel.on(hidden) == "liger" and len(targets):  # Liger divides by their number
        return _liger_losses(hidden, head.weight, targets)
    return _ChunkedCrossEntropy.apply(
        hidden, head.weight, targets, kernel.chunk_tokens, _dtype(hidden, head.weight), torch.is_grad_enabled()
    )


def _liger_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    dtype = _dtype(hidden, weight)
    losses = liger_fused_linear_cross_entropy(
        hidden.to(dtype), weight.to(dtype), targets, reduction="none", accum_dtype=torch.float32
    )
    return losses.sum(), losses.detach()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum and values of the loss of ``hidden @ weight.T``; only the sum has a gradient.

    The product is in ``dtype``, softmax and the sum of the weight's gradient in float32. With float16 the gradients are
    formed in the backward pass instead, from logits computed again: only there is the loss scale known, without which
    small probabilities would be rounded to zero.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk_tokens: int,
        dtype: torch.dtype,
        gradients: bool,  # PyTorch says that weights need one under no_grad, too
    ) -> tuple[Tensor, Tensor]:
        ctx.late = dtype == torch.float16
        ctx.chunk_tokens, ctx.dtype = chunk_tokens, dtype
        wanted = ctx.needs_input_grad[:2] if gradients and not ctx.late else (False, False)
        losses, grad_hidden, grad_weight = _chunks(hidden, weight, targets, chunk_tokens, dtype, wanted)
        if ctx.late:
            ctx.save_for_backward(hidden, weight, targets)
        else:
            ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.late:
            hidden, weight, targets = ctx.saved_tensors
            _, *found = _chunks(
                hidden, weight, targets, ctx.chunk_tokens, ctx.dtype, ctx.needs_input_grad[:2], grad_total
            )
        else:
            found = [None if grad is None else grad * grad_total for grad in ctx.saved_tensors]
        return *found, None, None, None, None


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_tokens: int,
    dtype: torch.dtype,
    wanted: tuple[bool, bool],
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses, and the gradients of hidden states and weight (those ``wanted``) of their sum times ``scale``."""
    exact = torch.promote_types(dtype, torch.float32)
    losses = torch.empty(len(targets), dtype=exact, device=hidden.device)
    grad_hidden = torch.empty_like(hidden) if wanted[0] else None
    grad_weight = torch.zeros(weight.shape, dtype=exact, device=weight.device) if wanted[1] else None
    with torch.autocast(hidden.device.type, enabled=False):
        weight = weight.to(dtype)
        count = -(-len(targets) // chunk_tokens)
        for rows in _even_slices(len(targets), count):
            inputs, target = hidden[rows].to(dtype), targets[rows, None]
            log_p = torch.log_softmax(inputs @ weight.T, -1, dtype=exact)
            losses[rows] = log_p.gather(1, target)[:, 0].neg_()
            if not any(wanted):
                continue
            grad = log_p.exp_()  # softmax minus one-hot is the gradient of the logits
            grad.scatter_add_(1, target, torch.full_like(target, -1, dtype=exact))
            if scale is not None:
                grad *= scale
            grad = grad.to(dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, inputs)
    return losses, grad_hidden, grad_weight


def _even_slices(length: int, count: int) -> Iterator[slice]:
    """``count`` slices of nearly equal size: a short last chunk would cost as much memory traffic as a full one."""
    ends = [index * length // count for index in range(count + 1)] if count else []
    return (slice(start, end) for start, end in itertools.pairwise(ends))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``; the products of 16-bit numbers are summed in the total's precision where PyTorch can."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and torch.cuda.get_device_capability(a.device) >= (8, 0):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _dtype(hidden: Tensor, weight: Tensor | None = None) -> torch.dtype:
    """Of the matrix product: autocast's where it is on, else the weight's."""
    if torch.is_autocast_enabled(hidden.device.type) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype if weight is None else weight.dtype


def _upcast(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
