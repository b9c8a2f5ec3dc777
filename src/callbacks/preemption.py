"""Stop cleanly when asked to: finish the optimizer step, save a checkpoint, leave.

SIGTERM is what schedulers send before they take a machine away; the first Ctrl-C means the same, the second one stops
at once. The checkpoint is written between optimizer steps, so that the resumed run equals an uninterrupted one.
"""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


class Preempted(SystemExit):
    """A run that stopped because it was asked to; ``checkpoint`` is where it can go on."""

    def __init__(self, signal_number: int, step: int, checkpoint: Path) -> None:
        super().__init__(128 + signal_number)
        self.signal_number, self.step, self.checkpoint = signal_number, step, checkpoint


class Preemption(Callback):
    """Saves ``<folder>/last.ckpt`` after the running optimizer step and raises `Preempted`.

    Args:
        folder: of the run's checkpoints.
        signals: names of the signals to obey.
    """

    def __init__(self, folder: str, signals: tuple[str, ...] = ("SIGTERM", "SIGINT", "SIGUSR1")) -> None:
        self.folder = Path(folder)
        self.signals = [getattr(signal, name) for name in signals]
        self._received = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # After Lightning's own handlers, which would stop between accumulation steps without saving.
        for number in self.signals:
            self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        log.warning(
            "%s received: finishing this step and saving a checkpoint%s",
            signal.Signals(number).name,
            " (Ctrl-C again stops at once)" if number == signal.SIGINT else "",
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(bool(self._received), all=False)
            self._received = self._received or (signal.SIGTERM if asked else 0)
        if self._received and trainer.global_step < trainer.max_steps:
            checkpoint = self.folder / "last.ckpt"
            trainer.save_checkpoint(checkpoint)
            raise Preempted(self._received, trainer.global_step, checkpoint)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
