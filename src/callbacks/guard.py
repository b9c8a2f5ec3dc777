"""Puts `StepGuard` into a run: says which steps were skipped and why, and stops a run that can't recover."""

import logging
import math
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from src.callbacks.checkpoint_files import problem_with, step_of
from src.callbacks.step_guard import NOT_FINITE, OVERFLOW, Decision, Diverged, StepGuard, decision, withhold
from src.errors import UserError
from src.strategies.deepspeed import ZeroStrategy

log = logging.getLogger(__name__)

# A GPU's decisions are read so many steps later, when they have arrived anyway. The lag is the same on every rank, so
# that all stop at the same step.
_LAG_STEPS = 2


class Guard(Callback):
    """Skips steps that would spoil the weights; raises `Diverged` after ``max_in_row`` of them in a row.

    A skipped step changes neither weights nor the optimizer's moments and step count. It counts as a step all the same:
    the learning rate and the data go on. The history is part of the checkpoint.

    Args:
        sigma: a loss or gradient norm so many standard deviations above the mean is a spike, see `StepGuard`; None:
            only values that are not finite are skipped.
        window: steps that mean and deviation are taken of.
        max_in_row: the run stops after so many skipped steps in a row.
        folder: of the run's checkpoints, to name the last good one.
    """

    def __init__(
        self, sigma: float | None = 6.0, window: int = 128, max_in_row: int = 10, folder: str | None = None
    ) -> None:
        if isinstance(max_in_row, bool) or not isinstance(max_in_row, int) or max_in_row < 1:
            raise UserError(f"callbacks.guard.max_in_row must be a whole number of at least 1, found {max_in_row!r}")
        self.steps = StepGuard(sigma, window)
        self.max_in_row, self.folder = max_in_row, Path(folder) if folder else None
        self.decisions: list[Decision] = []  # of the skipped steps in a row up to now
        self._unread: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()
        self._speaks = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        module: Any = pl_module
        module.guard = self
        self._speaks = trainer.is_global_zero

    def before_step(self, trainer: L.Trainer, optimizer: Any, loss: Tensor, norm: Tensor | None) -> None:
        """Decide about the optimizer step that comes next; the module calls this when its gradients are complete.

        Args:
            optimizer: PyTorch's, or DeepSpeed's.
            loss: of this step on this rank, a scalar.
            norm: of the gradients of all ranks before clipping, a scalar; None where it is not known.
        """
        if trainer.world_size > 1:  # both in one message, so that all ranks decide about the same two numbers
            pair = torch.stack(
                [loss.detach().float().reshape(()), loss.new_zeros(()) if norm is None else norm.to(loss)]
            )
            torch.distributed.all_reduce(pair)
            loss, norm = pair[0] / trainer.world_size, None if norm is None else pair[1] / trainer.world_size
        skip, numbers = self.steps.decide(loss, norm, scaler_skips(trainer, loss, norm))
        self._remember(trainer.global_step + 1, numbers)
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            strategy: Any = trainer.strategy
            strategy.discard_gradients = bool(skip)
        else:
            withhold(optimizer, skip)

    def _remember(self, step: int, numbers: Tensor) -> None:
        arrived = None
        if numbers.is_cuda:
            numbers = numbers.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._unread.append((step, numbers, arrived))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        strategy: Any = trainer.strategy
        if isinstance(strategy, ZeroStrategy) and strategy.left_out:
            strategy.left_out = False
            self._left_out(strategy.deepspeed_engine.optimizer)
        self._read(_LAG_STEPS)
        self._stop_if_hopeless(trainer)

    def _left_out(self, zero: Any) -> None:
        """The step just made was not: DeepSpeed, which alone knows the norm, found that it was not finite."""
        _, numbers, arrived = self._unread[-1]
        if arrived is not None:
            arrived.synchronize()
        seeks = zero.dynamic_loss_scale and zero.loss_scaler.cur_scale > zero.loss_scaler.min_scale
        numbers[0], numbers[2] = OVERFLOW if seeks else NOT_FINITE, math.inf
        self.steps.count_skipped()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read(0)

    def _read(self, lag: int) -> None:
        """Look at the decisions that lie ``lag`` steps back; on the CPU at all, which are there at once."""
        while self._unread and (self._unread[0][2] is None or len(self._unread) > lag):
            step, numbers, arrived = self._unread.popleft()
            if arrived is not None:
                arrived.synchronize()
            found = decision(step, numbers)
            if found.verdict == OVERFLOW:  # the scaler finds its scale in the first steps of every fp16 run
                continue
            self.decisions = [*self.decisions, found] if found.skipped else []
            if found.skipped and self._speaks:
                log.warning(
                    "step %d skipped (%d in a row): %s; loss %.4g, gradient norm %.4g",
                    found.step,
                    len(self.decisions),
                    found.why,
                    found.loss,
                    found.norm,
                )

    def _stop_if_hopeless(self, trainer: L.Trainer) -> None:
        if len(self.decisions) < self.max_in_row:
            return
        first, last = self.decisions[0], self.decisions[-1]
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        # Where every batch fails it is the weights that are spoiled, by the last update before.
        checkpoint = last_checkpoint_before(self.folder, first.step - 1) if self.folder else None
        go_on = (
            f"go on from {checkpoint} (ckpt_path=…)" if checkpoint else "no checkpoint from before is left: start again"
        )
        raise Diverged(
            f"training diverged: the {len(self.decisions)} optimizer steps from {first.step} to {last.step} were all "
            f"skipped, the last one because {last.why}; {go_on} with a lower optimizer.lr "
            f"(it was {rate:.3g}) or a longer scheduler.warmup_steps, or look at the data of these steps"
        )

    def state_dict(self) -> dict[str, Any]:
        self._read(0)
        return {**self.steps.state_dict(), "in_row": [vars(found) for found in self.decisions]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps.load_state_dict(state_dict)
        self.decisions = [Decision(**found) for found in state_dict["in_row"]]


def scaler_skips(trainer: L.Trainer, loss: Tensor, norm: Tensor | None) -> bool:
    """Whether the loss scaler of fp16 will skip this step by itself: its scale is still too large for the gradients.

    With a scale of 1 it is not the scale that makes them overflow.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or norm is None or scaler.get_scale() <= 1:
        return False
    return bool(torch.isfinite(loss) & ~torch.isfinite(norm))


def last_checkpoint_before(folder: Path, step: int) -> Path | None:
    """The newest whole checkpoint in a folder of fewer optimizer steps than ``step``."""
    older = sorted((path for path in folder.glob("step_*.ckpt") if 0 <= step_of(path) < step), key=step_of)
    return next((path for path in reversed(older) if problem_with(path, checksums=False) is None), None)
