"""Notices a rank that hangs, has died or is slow, and says which one.

Without it a run of many processes in which one blocks just stops: all others wait for it in the next collective. The
signs of life are those of `Heartbeats`. A rank is slow if its own time for a step is much longer than that of the
others: the time from the end of one backward pass, where all ranks wait for each other, to the beginning of the next.
"""

import itertools
import json
import logging
import statistics
import time
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed import HashStore, PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from src.callbacks.heartbeats import Beat, Heartbeats
from src.callbacks.preemption import Preempted
from src.callbacks.step_guard import Diverged
from src.errors import UserError

log = logging.getLogger(__name__)

_NOTICEABLE_S = 0.02  # what a rank takes longer for a step is not worth a warning below this
_generations = itertools.count()  # validation and training of one process use the same store


class Watchdog(Callback):
    """Ends a run that hangs, with status 75 and the name of the rank that all wait for; warns about slow ranks.

    Args:
        timeout_s: seconds without progress (a micro-batch, a validation batch, a saved checkpoint) until a run hangs.
            Longer than loading the weights, compiling, saving or writing samples takes; shorter than the timeout of
            communication, or that one speaks first and knows no names.
        slow_factor: a rank is slow whose own time for a step is so many times the median of all ranks.
        window: optimizer steps that slowness is judged by.
        heartbeat_s: seconds between two signs of life.

    Raises:
        UserError: a setting is impossible.
    """

    def __init__(
        self, timeout_s: float = 1500, slow_factor: float = 1.5, window: int = 50, heartbeat_s: float = 5
    ) -> None:
        settings = {"timeout_s": timeout_s, "window": window, "heartbeat_s": heartbeat_s, "slow_factor": slow_factor}
        for name, value in settings.items():
            if isinstance(value, (bool, str)) or not value > (name == "slow_factor"):
                least = "a number above 1" if name == "slow_factor" else "a positive number"
                raise UserError(f"callbacks.watchdog.{name} must be {least}, found {value!r}")
        if timeout_s < 2 * heartbeat_s:
            raise UserError(
                f"callbacks.watchdog.timeout_s={timeout_s} must be at least twice heartbeat_s={heartbeat_s}: "
                "nobody can be missed sooner"
            )
        self.timeout_s, self.slow_factor, self.window, self.heartbeat_s = timeout_s, slow_factor, window, heartbeat_s
        self._beats: RankBeats | None = None
        self._own = OwnTime()
        self._is_last = False  # of the micro-batches of an optimizer step

    # The run from start to end

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._own = OwnTime()
        self._beats = RankBeats(
            own_store(next(_generations), 4 * self.heartbeat_s),
            trainer.global_rank,
            trainer.world_size,
            self.heartbeat_s,
            self.timeout_s,
            self.slow_factor,
        )
        self._beats.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._beats is None:
            return
        if isinstance(exception, Exception) and not isinstance(exception, (Diverged, Preempted)):
            culprit = self._beats.lost_peer(exception)
            if culprit:
                log.error("%s; rank %d can't go on without it", culprit, trainer.global_rank)
            else:
                lines = str(exception).splitlines() or [""]
                self._stop(f"{type(exception).__name__}: {lines[0]}")
        self._stop()

    def _stop(self, state: str = "ended") -> None:
        if self._beats is not None:
            self._beats.stop(state)
            self._beats = None

    # Progress

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._progress(trainer, "waiting for data")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._is_last = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._own.data_arrived()
        self._progress(trainer, "in the forward pass")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        if self._is_last:  # between the micro-batches of a step nobody waits for anybody
            self._own.end(pl_module.device)
        self._progress(trainer, "in the backward pass")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._is_last:
            self._own.begin(pl_module.device)
        self._progress(trainer, "in the optimizer step")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._own.wait_for_data()
        if self._own.steps >= self.window and self._beats is not None:
            self._beats.own_time = (trainer.global_step, *self._own.means())
        self._progress(trainer, "waiting for data")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._own.interrupted()
        self._progress(trainer, "validating")

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._progress(trainer, "validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._progress(trainer, "busy after validation")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._own.interrupted()
        self._progress(trainer, "saving a checkpoint", common=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._progress(trainer, "busy after the last step")

    def _progress(self, trainer: L.Trainer, phase: str, common: bool = True) -> None:
        if self._beats is not None:
            self._beats.progress(phase, trainer.global_step + 1, common)


class RankBeats(Heartbeats):
    """`Heartbeats` that also compare how long the ranks need for their steps."""

    def __init__(
        self, store: Store, rank: int, world_size: int, interval_s: float, timeout_s: float, slow_factor: float
    ) -> None:
        super().__init__(store, rank, world_size, interval_s, timeout_s)
        self.slow_factor = slow_factor
        self.own_time: tuple[int, float, float] | None = None  # step, seconds for a step, of these waiting for data
        self._compared = 0

    def every_beat(self) -> None:
        if self.own_time is None:
            return
        self.store.set(f"own_time/{self.rank}", json.dumps(self.own_time))
        if self.rank == 0 and self._compared < self.own_time[0]:
            keys = [f"own_time/{rank}" for rank in range(self.world_size)]
            if not self.store.check(keys):
                return
            times = [json.loads(text) for text in self.store.multi_get(keys)]
            self._compared = self.own_time[0]
            beats = {beat.rank: beat for beat in self._beats(range(self.world_size))}
            for sentence in slow_ranks([(own, data) for _, own, data in times], self.slow_factor, beats):
                log.warning("up to step %d %s", self._compared, sentence)


def slow_ranks(times: list[tuple[float, float]], factor: float, beats: dict[int, Beat]) -> list[str]:
    """A sentence about each rank that is slower than ``factor`` times the median.

    Args:
        times: of each rank, seconds of its own for a step and how many of these it waited for data.
    """
    usual = statistics.median_low([own for own, _ in times])
    return [
        f"{beats[rank].name} is slow: {own:.3g} s of its own for a step, {data:.3g} s of these for data, where "
        f"{usual:.3g} s is the median; all ranks wait for it"
        for rank, (own, data) in enumerate(times)
        if own > max(factor * usual, usual + _NOTICEABLE_S)
    ]


class OwnTime:
    """What a rank needs for a step without waiting for others, in seconds on the CPU or by events on a GPU's stream.

    Steps with a validation or a saved checkpoint before them do not count.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._begun: Any = None
        self._spans: list[tuple[Any, Any]] = []
        self._data_s = self._data_since = 0.0

    def begin(self, device: torch.device) -> None:
        self._begun = _moment(device)

    def end(self, device: torch.device) -> None:
        if self._begun is not None:
            self._spans.append((self._begun, _moment(device)))
            self.steps += 1
        self._begun = None

    def interrupted(self) -> None:
        self._begun = None

    def wait_for_data(self) -> None:
        self._data_since = time.perf_counter()

    def data_arrived(self) -> None:
        if self._begun is not None and self._data_since:
            self._data_s += time.perf_counter() - self._data_since
        self._data_since = 0.0

    def means(self) -> tuple[float, float]:
        """Own time of a step and its wait for data since the last call, in seconds; waits for a GPU once."""
        own = [_seconds(begin, end) for begin, end in self._spans]
        data_s, steps = self._data_s, len(own)
        self._spans, self.steps, self._data_s = [], 0, 0.0
        return sum(own) / steps, data_s / steps


def _moment(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begin: Any, end: Any) -> float:
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def own_store(generation: int, wait_s: float) -> Store:
    """A connection of our own to the store of the process group; one within the process where there is no group.

    Args:
        wait_s: an answer that takes longer has got lost.
    """
    if not torch.distributed.is_initialized():
        return PrefixStore(f"watchdog/{generation}", HashStore())
    shared: Any = _get_default_store()  # typed without half of its methods
    store = PrefixStore(f"watchdog/{generation}", shared.clone())
    store.set_timeout(timedelta(seconds=wait_s))
    return store
