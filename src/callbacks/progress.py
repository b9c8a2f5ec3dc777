"""A progress bar in optimizer steps on a terminal, and lines with the same numbers in a log file.

Lightning's bar counts batches of an epoch; a run of packed rows has no epochs, it has steps.
"""

import logging
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

log = logging.getLogger(__name__)

_SHOWN = {
    "train/loss": ("loss", "{:.4g}"),
    "val/loss": ("val_loss", "{:.4g}"),
    "train/bits_per_byte": ("bpb", "{:.4g}"),
    "train/lr": ("lr", "{:.3g}"),
    "train/grad_norm": ("grad_norm", "{:.3g}"),
    "train/skipped_steps": ("skipped", "{:.0f}"),
    "throughput/tokens_per_s": ("tok/s", "{:.4g}"),
    "throughput/tokens_per_s_per_device": ("tok/s/device", "{:.4g}"),
    "throughput/mfu": ("mfu", "{:.1%}"),
    "throughput/step_time_s": ("step_s", "{:.3g}"),
    "throughput/data_wait_share": ("data_wait", "{:.1%}"),
    "memory/gpu_gb": ("gpu_gb", "{:.3g}"),
    "memory/gpu_peak_gb": ("gpu_peak_gb", "{:.3g}"),
    "memory/host_gb": ("host_gb", "{:.3g}"),
}
_REDRAW_EVERY_S = 0.1


class StepBar(RichProgressBar):
    """Rich progress bar over all optimizer steps of the run, with the numbers that were logged last.

    It is drawn a few times a second however short the steps are: drawing takes milliseconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn_at = 0.0

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "training  "

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        last = trainer.global_step == trainer.max_steps
        if last or now - self._drawn_at >= _REDRAW_EVERY_S:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._drawn_at = now

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
    """The numbers worth a look, as text: the loss of each source after the loss of all, the time left at the end."""
    metrics = trainer.logged_metrics  # plain numbers: what is read here never waits for a device
    found = {}
    for name, (short, form) in _SHOWN.items():
        told = name.endswith("_per_device") and trainer.world_size == 1  # the same as of all devices
        if name in metrics and not told and not (name == "train/skipped_steps" and not metrics[name]):
            found[short] = form.format(float(metrics[name]))
        if name == "train/loss":
            found |= {source: f"{loss:.4g}" for source, loss in source_losses(metrics).items()}
    if "throughput/eta_s" in metrics:
        found["eta"] = str(timedelta(seconds=round(float(metrics["throughput/eta_s"]))))
    return found


def source_losses(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Training loss by source, where there are several."""
    losses = {
        name.split("/")[1]: float(value)
        for name, value in metrics.items()
        if name.startswith("train/") and name.endswith("/loss") and name != "train/loss"
    }
    return losses if len(losses) > 1 else {}
