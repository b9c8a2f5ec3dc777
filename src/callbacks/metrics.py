"""What a run shows: the one place where numbers leave the device and go to the loggers.

A number that is read makes the host wait for the GPU, and one that is averaged over ranks makes ranks wait for each
other. So between logged steps (``trainer.log_every_n_steps``) everything is only added up: losses on the device by
`LossSums`, what batches hold on the host from the ``counts`` that the loader made. At a logged step one small tensor is
summed over the ranks and read once, the loggers get one row, and `trainer.logged_metrics` holds plain numbers for
whoever shows them. The step is the number of optimizer steps done.
"""

import time
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.callbacks.full_disk import going_on
from src.callbacks.memory import memory_gb
from src.callbacks.throughput import Mark, TrainingFlops, Window
from src.datamodules.packed import PackedDataModule
from src.strategies.hardware import peak_flops


class Metrics(Callback):
    """Logs losses, rates, memory and what was consumed; see ``docs/monitoring.md`` for every name.

    The first of the callbacks, so that the others find the numbers of the step that just ended.

    Args:
        window: optimizer steps over which rates are averaged.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self.consumed_tokens = 0.0  # of all devices, up to the last logged step
        self._counts = np.zeros(3, np.int64)  # of this rank since then, see src.datamodules.batches.COUNTS
        self._lr = 0.0
        self._devices = 1
        self._started_step = 0
        self._peak = 0.0
        self._flops = TrainingFlops(0.0, 0.0, 0.0)
        self._total_flops = 0.0
        self._waited_s = 0.0  # mean over the ranks, up to the last logged step
        self._read_wait_s = 0.0  # of this rank, up to the last logged step
        self._clock = _Clock()
        self._rates = Window(window)

    # Training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: Any = pl_module
        self._peak = peak_flops(pl_module.device, str(trainer.precision))
        self._flops = TrainingFlops.of(module.model)
        self._counts[:] = 0
        self._total_flops = self._waited_s = 0.0
        self._read_wait_s = _datamodule(trainer).waited_s
        self._devices = trainer.world_size
        self._started_step = trainer.global_step
        self._clock = _Clock()
        self._rates = Window(self.window)
        self._rates.add(Mark(trainer.global_step, 0.0, self.consumed_tokens, 0.0, 0.0))

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._clock.go_on()
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # the scheduler changes it before the batch ends

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        self._counts += batch["counts"].numpy().sum(0)
        if is_logged(trainer, batch_idx):
            publish(trainer, self._read(trainer, pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pause()

    def pause(self) -> None:
        """What happens from here to the next batch is not training and does not count as its time."""
        self._clock.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            found = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
            publish(trainer, {**found, **self._consumed(trainer)})

    # Reading

    def _read(self, trainer: L.Trainer, module: Any) -> dict[str, float]:
        """All numbers of the steps since the last logged one; the only place where host and ranks wait."""
        data, losses = _datamodule(trainer), module.loss_sums
        own = module.step_metrics  # equal on all ranks
        waited, self._read_wait_s = data.waited_s - self._read_wait_s, data.waited_s
        host = torch.tensor([*self._counts.tolist(), waited], dtype=torch.float64)
        shared = torch.cat([losses.sums.flatten(), host.to(losses.sums.device, non_blocking=True)])
        shared = trainer.strategy.reduce(shared, reduce_op="sum")
        values = torch.cat([shared, *(value.to(shared).reshape(1) for value in own.values())]).tolist()
        seconds = self._clock.seconds()  # after the device has caught up
        losses.reset()
        self._counts[:] = 0

        size = losses.sums.numel()
        tokens, pairs, predictions, waited = values[size : size + 4]
        self.consumed_tokens += tokens
        self._total_flops += self._flops(tokens, pairs, predictions)
        self._waited_s += waited / trainer.world_size
        mark = Mark(trainer.global_step, seconds, self.consumed_tokens, self._total_flops, self._waited_s)
        self._rates.add(mark)
        rates = self._rates.rates(trainer.world_size, self._peak)
        rows = [values[start : start + 3] for start in range(0, size, 3)]
        return {
            **dict(zip(own, values[size + 4 :], strict=True)),
            **losses.metrics(rows),
            "train/lr": float(self._lr),
            **rates,
            "throughput/eta_s": self._remaining(trainer, rates["throughput/step_time_s"]),
            **self._consumed(trainer),
            **memory_gb(module.device),
        }

    def _remaining(self, trainer: L.Trainer, step_time_s: float) -> float:
        """Seconds to the last step, with as much validation for each step as there was so far."""
        done = trainer.global_step - self._started_step
        return (trainer.max_steps - trainer.global_step) * (step_time_s + self._clock.paused_s / done)

    def _consumed(self, trainer: L.Trainer) -> dict[str, float]:
        data, steps = _datamodule(trainer), trainer.global_step
        found = {"consumed/tokens": self.consumed_tokens, "consumed/samples": float(steps * data.global_batch_size)}
        for name, samples, rows in zip(data.sources.train, data.order.taken(steps), data.order.sizes, strict=True):
            found[f"consumed/{name}/epochs"] = samples / rows
            found[f"consumed/{name}/share"] = samples / max(steps * data.global_batch_size, 1)
        return found

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        # Since the last logged step the others' tokens are not known, about as many as here.
        return {"consumed_tokens": self.consumed_tokens + int(self._counts[0]) * self._devices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.consumed_tokens = state_dict["consumed_tokens"]


def is_logged(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a micro-batch ended an optimizer step whose numbers are read: every n-th one, the first and the last."""
    if (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    step, every = trainer.global_step, max(trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]
    return step in (1, trainer.max_steps) or step % every == 0


def publish(trainer: L.Trainer, values: dict[str, float]) -> None:
    """Give numbers to the loggers and to those who show them."""
    shown: dict[str, Any] = trainer.logged_metrics
    shown.update(values)
    trainer.callback_metrics.update({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
    for logger in trainer.loggers:
        with going_on("what this step logged"):
            logger.log_metrics(values, trainer.global_step)
            logger.save()


class _Clock:
    """Seconds of training, without the pauses for validation and what follows it."""

    def __init__(self) -> None:
        self.paused_s = 0.0
        self._start = time.perf_counter()
        self._paused_at: float | None = None

    def seconds(self) -> float:
        return time.perf_counter() - self._start - self.paused_s

    def pause(self) -> None:
        if self._paused_at is None:
            self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        if self._paused_at is not None:
            self.paused_s += time.perf_counter() - self._paused_at
            self._paused_at = None


def _datamodule(trainer: L.Trainer) -> PackedDataModule:
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, PackedDataModule)
    return data
