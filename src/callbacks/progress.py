"""A progress bar in optimizer steps on a terminal, and lines with the same numbers in a log file.

Lightning's bar counts batches of an epoch; a run of packed rows has no epochs, it has steps.
"""

import logging
import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

log = logging.getLogger(__name__)

_SHOWN = {
    "train/loss": "loss",
    "val/loss": "val_loss",
    "throughput/tokens_per_s": "tok/s",
    "throughput/mfu": "mfu",
    "train/grad_norm": "grad_norm",
}


class StepBar(RichProgressBar):
    """Rich progress bar over all optimizer steps of the run, with loss, tokens/s and MFU."""

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "training  "

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        values = shown_metrics(trainer)
        return {"step": f"{trainer.global_step}/{trainer.max_steps}", **values}


class StepLines(Callback):
    """A line in the log every ``every_n_steps`` optimizer steps, where there is no terminal to draw on."""

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step in (1, trainer.max_steps)
        if due and step != self._last_step and trainer.is_global_zero:
            values = "  ".join(f"{name} {value}" for name, value in shown_metrics(trainer).items())
            log.info("step %d/%d  %s", step, trainer.max_steps, values)
            self._last_step = step

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            values = "  ".join(
                f"{name.removeprefix('val/')} {float(value):.4f}"
                for name, value in trainer.callback_metrics.items()
                if name.startswith("val/")
            )
            log.info("validation at step %d  %s", trainer.global_step, values)


def progress(every_n_steps: int = 10) -> Callback:
    """`StepBar` on a terminal, `StepLines` elsewhere."""
    return StepBar() if sys.stdout.isatty() else StepLines(every_n_steps)


def shown_metrics(trainer: L.Trainer) -> dict[str, str]:
    """The few numbers worth a look at each step, as text."""
    metrics = {**trainer.callback_metrics, **trainer.logged_metrics}
    return {short: f"{float(metrics[name]):.4g}" for name, short in _SHOWN.items() if name in metrics}
