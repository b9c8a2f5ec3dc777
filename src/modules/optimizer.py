"""AdamW with decay groups and the learning-rate schedules of language-model training.

Matrices decay; norms, biases and other vectors don't (as in GPT-3, Brown et al. 2020, arXiv:2005.14165). AdamW:
Loshchilov and Hutter 2017, arXiv:1711.05101. Warm-up then cosine to a floor: Loshchilov and Hutter 2016,
arXiv:1608.03983, as Llama uses it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from src.errors import UserError


@dataclass(frozen=True)
class AdamW:
    """AdamW over the parameters that require a gradient.

    Args:
        fused: one kernel for all parameters (3.6 times faster than a loop on CPU).
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    fused: bool = True

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or value < 0
                or (name == "lr" and not value)
            ):
                raise UserError(f"optimizer.{name} must be a positive number such as 1e-4, found {value!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas must be two numbers of at least 0 and below 1, found {self.betas}")

    def build(self, model: nn.Module, gradients_are_scaled: bool = False) -> torch.optim.Optimizer:
        """The optimizer of a model's trainable parameters.

        Args:
            gradients_are_scaled: a gradient scaler is in use (fp16). Fused AdamW would take the scale off within its
                step, where it is too late for clipping; told that it can't, Lightning takes it off before.
        """
        optimizer = torch.optim.AdamW(
            decay_groups(model, self.weight_decay),
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            fused=self.fused,
        )
        if gradients_are_scaled:
            optimizer._step_supports_amp_scaling = False
        return optimizer


_SETTINGS = ("initial_lr", "betas", "eps", "weight_decay", "fused")


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """What the configuration says about each parameter group; the learning rate before the schedule."""
    return [
        {name: tuple(group[name]) if name == "betas" else group[name] for name in _SETTINGS if name in group}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: Any, scheduler: LambdaLR, wanted: list[dict[str, Any]]) -> list[str]:
    """Give an optimizer that was loaded from a checkpoint the settings of this run instead of those it was saved with.

    Args:
        wanted: `settings_of` the optimizer before it was loaded.

    Returns:
        what differed, such as ``lr 0.0005 (was 0.001)``; loading with the same settings changes no number.
    """
    different: dict[str, None] = {}
    for group, found, settings in zip(optimizer.param_groups, settings_of(optimizer), wanted, strict=True):
        for name, value in settings.items():
            if found.get(name) != value:
                group[name] = value
                different[f"{name.removeprefix('initial_')} {value} (was {found.get(name)})"] = None
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
        group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)
    return list(different)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices with weight decay, vectors without."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # under ZeRO-3 a rank holds a flat slice
            (matrices if len(shape) >= 2 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then ``cosine`` or ``linear`` decay to ``min_lr_ratio`` of the peak, or ``constant``.

    ``warmup_steps`` below 1 is a fraction of all steps.
    """

    name: str = "cosine"
    warmup_steps: float = 0.03
    min_lr_ratio: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in {"cosine", "linear", "constant"}:
            raise UserError(f"scheduler.name must be cosine, linear or constant, found {self.name!r}")
        if self.warmup_steps < 0 or not 0 <= self.min_lr_ratio <= 1:
            raise UserError(
                "scheduler.warmup_steps must not be negative and scheduler.min_lr_ratio lies between 0 and 1, "
                f"found {self.warmup_steps} and {self.min_lr_ratio}"
            )

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""
        warmup = math.ceil(self.warmup_steps * total_steps) if self.warmup_steps < 1 else int(self.warmup_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.name == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        remaining = 1 - progress if self.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * remaining
