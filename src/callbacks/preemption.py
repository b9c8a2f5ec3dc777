"""Stop cleanly when asked to: finish the optimizer step, save a checkpoint, leave.

SIGTERM is what schedulers send before they take a machine away, SIGUSR1 what our Slurm script asks for, SIGUSR2 what
submitit sends; the first Ctrl-C means the same, the second one stops
at once. The checkpoint is written between optimizer steps, so that the resumed run equals an uninterrupted one. A run
asked to stop while it validates stops there; the resumed one validates anew. In the validation before training there is
nothing to save yet: the run stops after its first step.
"""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from src.callbacks.checkpoints import Checkpoints

log = logging.getLogger(__name__)


class Preempted(SystemExit):
    """A run that stopped because it was asked to; ``checkpoint`` is where it can go on."""

    def __init__(self, signal_number: int, step: int, checkpoint: Path) -> None:
        super().__init__(128 + signal_number)
        self.signal_number, self.step, self.checkpoint = signal_number, step, checkpoint


class Preemption(Checkpoint):  # so that Lightning calls it after everything that a checkpoint should hold
    """Has `Checkpoints` save after the running optimizer step and raises `Preempted`.

    Args:
        signals: names of the signals to obey.
    """

    def __init__(self, signals: tuple[str, ...] = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")) -> None:
        self.signals = [getattr(signal, name) for name in signals]
        self._received = 0
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage not in ("fit", "validate"):
            return
        # Lightning's own handler stops between accumulation steps without saving, and on several ranks it communicates
        # from inside the handler, which hangs; its loop also asks all ranks about it at each micro-batch.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        for number in self.signals:
            # Ctrl-C in a validation outside of training loses nothing.
            if stage == "fit" or number != signal.SIGINT:
                self._previous[number] = signal.signal(number, self._handle)
        if trainer.world_size > 1 and stage == "fit":  # asked on the CPU, the answer does not wait for the GPU's queue
            self._group = torch.distributed.new_group(backend="gloo")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or number
        log.warning(
            "%s received: finishing this step and saving a checkpoint%s",
            signal.Signals(number).name,
            " (Ctrl-C again stops at once)" if number == signal.SIGINT else "",
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if trainer.global_step >= trainer.max_steps:  # nothing is left but to finish
            return
        number = self._received
        if self._group is not None:
            asked = torch.tensor(number)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, group=self._group)
            number = int(asked)
        if number:
            self._received = number
            checkpoint = Checkpoints.of(trainer).save(trainer, required=True)
            assert checkpoint is not None
            raise Preempted(number, trainer.global_step, checkpoint)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()  # Lightning calls no teardown then

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
