"""Skips optimizer steps that would spoil the weights: a loss or gradient norm that is not finite, or a spike.

A spike is a value more than ``sigma`` standard deviations above the mean of the last ``window`` steps that were not
skipped. The rule is that of OLMo-core's skip-step optimizer (OLMo 2: Walsh et al. 2024, arXiv:2501.00656), with two
differences. Means and deviations are those of logarithms: norms of small batches have a long tail, and the plain rule
skipped steps of healthy runs (docs/faults.md). And skipped values do not enter the history, or the first spike would
hide the next.

The decision is made of tensors, and fused optimizers get it as a tensor, so that a GPU never waits for the host.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.errors import UserError

_SMALLEST = 1e-12  # has a logarithm, unlike a loss of 0
_LEAST_STD = 0.02  # of logarithms; or where all steps are alike a rise of one percent would be a spike

APPLIED, NOT_FINITE, SPIKE, OVERFLOW = 0, 1, 2, 3
EXIT_DIVERGED = 3


class Diverged(UserError):
    """So many steps in a row were skipped that going on is pointless; its message names the last good checkpoint.

    Commands end with ``exit_status`` then: starting again without a change would end in the same place.
    """

    exit_status = EXIT_DIVERGED


@dataclass(frozen=True)
class Decision:
    """What was decided about one optimizer step, on the host.

    step: number of the step, counted from 1.
    verdict: ``APPLIED``, ``NOT_FINITE``, ``SPIKE``, or ``OVERFLOW`` (fp16: the loss scaler skips and lowers its scale).
    loss, norm: of the step; the norm is 0 where it is unknown (DeepSpeed).
    loss_usual, norm_usual: geometric means over the history.
    loss_limit, norm_limit: what is above is a spike.
    """

    step: int
    verdict: int
    loss: float
    norm: float
    loss_usual: float
    norm_usual: float
    loss_limit: float
    norm_limit: float

    @property
    def skipped(self) -> bool:
        return self.verdict != APPLIED

    @property
    def why(self) -> str:
        """A clause such as ``the loss is nan``."""
        if self.verdict == OVERFLOW:
            return "the gradients overflow in fp16"
        found = {
            "loss": (self.loss, self.loss_usual, self.loss_limit),
            "gradient norm": (self.norm, self.norm_usual, self.norm_limit),
        }
        for name, (value, usual, limit) in found.items():
            if self.verdict == NOT_FINITE and not abs(value) < float("inf"):
                return f"the {name} is {value}"
            if self.verdict == SPIKE and value > limit:
                return f"the {name}, {value:.4g}, is a spike: {usual:.4g} is usual and {limit:.4g} the limit"
        return f"the loss is {self.loss:.4g} and the gradient norm {self.norm:.4g}"


class StepGuard:
    """Decides step by step whether the optimizer may use its gradients.

    Args:
        sigma: standard deviations above the mean, both of logarithms, that make a spike; None: only values that are not
            finite are skipped.
        window: steps that mean and deviation are taken of; there are no spikes before half of them are there.

    Raises:
        UserError: a setting is impossible.
    """

    def __init__(self, sigma: float | None = 6.0, window: int = 128) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 4:
            raise UserError(f"callbacks.guard.window must be a whole number of at least 4, found {window!r}")
        if sigma is not None and (isinstance(sigma, (bool, str)) or not sigma > 0):
            raise UserError(f"callbacks.guard.sigma must be a positive number or null, found {sigma!r}")
        self.sigma, self.window = sigma, window
        self._history = torch.zeros(2, window)  # losses and norms of the steps that were not skipped
        self._count = torch.zeros((), dtype=torch.int64)  # how many there were so far
        self._positions = torch.arange(window)
        self._skipped = torch.zeros(())

    def decide(self, loss: Tensor, norm: Tensor | None, overflow: bool = False) -> tuple[Tensor, Tensor]:
        """Judge one step and, if it is a usual one, remember it.

        Args:
            loss: mean of the step over all ranks, a scalar.
            norm: of all gradients before clipping, a scalar; None where it is not known.
            overflow: a loss scaler will skip this step by itself.

        Returns:
            whether to skip, a scalar of 0.0 or 1.0; and the numbers of a `Decision` without its step, ``[7]``. Both
            are on the loss's device and have not been waited for.
        """
        self._to(loss.device)
        loss = loss.detach().float().reshape(())
        values = torch.stack([loss, torch.zeros_like(loss) if norm is None else norm.detach().to(loss).reshape(())])
        usual, limit = self._usual_and_limit()
        finite = torch.isfinite(values).all()
        skip = ~finite
        if self.sigma is not None:
            skip = skip | ((values > limit).any() & (self._count >= self.window // 2))
        verdict = torch.where(finite, skip * SPIKE, NOT_FINITE)
        if overflow:
            skip, verdict = torch.ones_like(skip), torch.full_like(verdict, OVERFLOW)
        place = (self._count % self.window).reshape(1)
        kept = torch.where(skip, self._history.index_select(1, place)[:, 0], values)
        self._history.index_copy_(1, place, kept[:, None])
        self._count += ~skip
        self._skipped += skip
        return skip.float(), torch.cat([verdict[None].float(), values, usual, limit])

    def count_skipped(self) -> None:
        """One more that somebody else left out."""
        self._skipped += 1

    @property
    def skipped(self) -> Tensor:
        """Steps skipped since the run began, a scalar."""
        return self._skipped.clone()

    def state_dict(self) -> dict[str, Any]:
        return {"history": self._history.cpu(), "count": int(self._count), "skipped": float(self._skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a checkpoint's history; with another window, with its newest steps."""
        device, history, count = self._history.device, state["history"], int(state["count"])
        ordered = (
            torch.roll(history, -(count % history.shape[1]), 1) if count >= history.shape[1] else history[:, :count]
        )
        newest = ordered[:, -self.window :]
        held = newest.shape[1]
        self._history = torch.zeros(2, self.window, device=device)
        # Where a step lies in the ring depends on the count, which goes on if nothing was cut.
        same = history.shape[1] == self.window
        self._count = torch.tensor(count if same else held, device=device)
        if same:
            self._history.copy_(history)
        else:
            self._history[:, :held] = newest
        self._skipped = torch.tensor(float(state["skipped"]), device=device)

    def _usual_and_limit(self) -> tuple[Tensor, Tensor]:
        """Geometric means of losses and norms in the history, and the limits above which spikes begin, ``[2]`` each."""
        history = self._history.double().clamp(min=_SMALLEST).log()
        inside = (self._positions < self._count).double()
        held = inside.sum()
        mean = (history * inside).sum(1) / held.clamp(min=1)
        deviations = (history - mean[:, None]) * inside
        variance = deviations.square().sum(1) / (held - 1).clamp(min=1)
        limit = mean + (self.sigma or math.inf) * variance.sqrt().clamp(min=_LEAST_STD)
        return mean.exp().float(), limit.exp().float()

    def _to(self, device: torch.device) -> None:
        if self._history.device != device:
            self._history, self._count = self._history.to(device), self._count.to(device)
            self._positions, self._skipped = self._positions.to(device), self._skipped.to(device)


def withhold(optimizer: Any, skip: Tensor) -> None:
    """Make the next ``optimizer.step()`` change nothing, moments and step counts included, if ``skip`` is 1.

    Fused optimizers read ``found_inf`` inside their kernel, without a word from the host. The others leave parameters
    without a gradient alone; for them the host has to know.
    """
    groups = optimizer.param_groups
    if all(group.get("fused") for group in groups):
        held = next((parameter for group in groups for parameter in group["params"]), skip)
        # Weights in host memory, FSDP2's offload: the kernel would read a copy that has not arrived.
        optimizer.found_inf = skip.cpu() if held.device.type == "cpu" else skip
    elif bool(skip):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def decision(step: int, numbers: Tensor) -> Decision:
    """The numbers of `StepGuard.decide`, on the host, as a `Decision`."""
    verdict, *values = numbers.tolist()
    names = [field.name for field in dataclasses.fields(Decision)][2:]
    return Decision(step, int(verdict), **dict(zip(names, values, strict=True)))
