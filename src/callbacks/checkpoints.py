"""Checkpoints to go on from, and the weights of the best validation.

Each is written under another name, flushed to the disk, renamed and only then declared complete by its manifest (see
`src.callbacks.checkpoint_files`), so a run killed at any moment leaves its earlier checkpoints as they were. A save
that fails, on a full disk for example, costs the run nothing but that checkpoint (logs, samples and plots that can't be
written cost it nothing either, see `src.callbacks.full_disk`); all ranks learn of it. Both callbacks
work with every strategy: with DeepSpeed and FSDP2 a checkpoint is a folder to which each rank writes its part.
"""

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch.distributed.checkpoint.api import CheckpointException

from src.callbacks import checkpoint_files as files
from src.callbacks.checkpoint_files import FileSum, Manifest
from src.callbacks.full_disk import going_on
from src.errors import UserError

log = logging.getLogger(__name__)


class CheckpointFailed(UserError):
    """A checkpoint that the run can't do without could not be written."""


class Checkpoints(Checkpoint):
    """Writes ``<folder>/step_00000100.ckpt`` between optimizer steps and keeps ``<folder>/last.ckpt`` pointing to the
    newest one.

    Args:
        folder: of the run's checkpoints.
        every_n_steps: optimizer steps between checkpoints; null for none but the last.
        every_minutes: also after so much time by the first rank's clock.
        keep_last: how many of the newest ones stay.
        keep_every_n_steps: those of these steps stay for ever.
        save_last: write one after the last step, from which more steps can be trained.
        max_failures: so many failed saves in a row stop the run.
    """

    def __init__(
        self,
        folder: str,
        every_n_steps: int | None = 500,
        every_minutes: float | None = None,
        keep_last: int = 2,
        keep_every_n_steps: int | None = None,
        save_last: bool = True,
        max_failures: int = 3,
    ) -> None:
        for name, value in {"every_n_steps": every_n_steps, "keep_every_n_steps": keep_every_n_steps}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"callbacks.last.{name} must be null or a whole number of at least 1, found {value!r}")
        for name, value in {"keep_last": keep_last, "max_failures": max_failures}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"callbacks.last.{name} must be a whole number of at least 1, found {value!r}")
        if every_minutes is not None and not every_minutes > 0:
            raise UserError(f"callbacks.last.every_minutes must be null or a positive number, found {every_minutes!r}")
        self.every_n_steps, self.every_minutes, self.save_last = every_n_steps, every_minutes, save_last
        self.max_failures, self._failures, self._saved_at = max_failures, 0, time.monotonic()
        self._tried_step = -1
        self._group: Any = None
        self._writer = Writer(Path(folder), "step", "last.ckpt", keep_last, keep_every_n_steps)

    @staticmethod
    def of(trainer: L.Trainer) -> "Checkpoints":
        """The callback of a trainer; `train` gives every trainer one."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))  # type: ignore[attr-defined]

    @property
    def last_good(self) -> Path | None:
        """The newest complete checkpoint of this run, or the one that it went on from."""
        return self._writer.newest

    def save(self, trainer: L.Trainer, required: bool = False) -> Path | None:
        """Write a checkpoint of the step the trainer has reached; on all ranks, between optimizer steps.

        Returns:
            its path, also if it was there already; None if it could not be written.

        Raises:
            CheckpointFailed: it could not be written and is ``required``, or that happened ``max_failures`` times in a
                row.
        """
        step = trainer.global_step
        if self._writer.newest is not None and files.step_of(self._writer.newest) == step:
            return self._writer.newest
        for logger in trainer.loggers:
            with going_on("metrics"):
                logger.save()  # what was logged so far belongs to the checkpoint
        self._tried_step, self._saved_at = step, time.monotonic()
        problem = self._writer.write(trainer)
        if problem is None:
            self._failures = 0
            return self._writer.newest
        self._failures += 1
        failed = f"the checkpoint of step {step} could not be written ({problem}); the last good one is "
        failed += str(self._writer.newest) if self._writer.newest else "none"
        if required:
            raise CheckpointFailed(f"{failed}: make room there and go on with ckpt_path=last")
        if self._failures >= self.max_failures:
            raise CheckpointFailed(
                f"{failed}: that was failure {self._failures} in a row, so the run stops "
                "(callbacks.last.max_failures); make room there and go on with ckpt_path=last"
            )
        if trainer.is_global_zero:
            log.warning("%s: training goes on, failure %d of %d", failed, self._failures, self.max_failures)
        return None

    # Lightning's hooks

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        accumulation, step = trainer.accumulate_grad_batches, checkpoint["global_step"]
        every = trainer.val_check_interval
        due = bool(trainer.enable_validation and isinstance(every, int) and step * accumulation % every == 0)
        set_progress(checkpoint["loops"]["fit_loop"], step, accumulation, validation_due=due)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        given = trainer.ckpt_path
        if given is not None:
            self._writer.newest = Path(given)  # named if nothing newer can be written
        self._saved_at = time.monotonic()
        if self.every_minutes is not None and trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # asked on the CPU: no wait for the GPU's queue

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        ends = self.save_last and step >= trainer.max_steps
        if ends or (self.every_n_steps and step % self.every_n_steps == 0) or self._time_is_up(trainer):
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.save_last and trainer.global_step >= trainer.max_steps:
            self.save(trainer, required=True)  # once more if it failed after the last step: everything else is done

    def _time_is_up(self, trainer: L.Trainer) -> bool:
        if self.every_minutes is None:
            return False
        up = torch.tensor(time.monotonic() - self._saved_at >= self.every_minutes * 60)
        if self._group is not None:
            torch.distributed.broadcast(up, 0, group=self._group)
        return bool(up)


class BestWeights(Checkpoint):
    """Keeps the weights of the best validation: ``<folder>/best.ckpt`` points to ``best_00000100.ckpt``.

    With DeepSpeed and FSDP2 the folder holds what their checkpoints hold, with DeepSpeed the optimizer too.

    Args:
        monitor: the metric; less is better.
    """

    def __init__(self, folder: str, monitor: str = "val/loss") -> None:
        self.monitor, self.best = monitor, float("inf")
        self._writer = Writer(Path(folder), "best", "best.ckpt", keep_last=1, weights_only=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = trainer.callback_metrics.get(self.monitor)
        if found is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.strategy.broadcast(float(found))
        if not value < self.best:
            return
        if (problem := self._writer.write(trainer)) is None:
            self.best = value
        elif trainer.is_global_zero:
            log.warning(
                "the best weights so far, of step %d, could not be written (%s): training goes on",
                trainer.global_step,
                problem,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


@dataclass
class Writer:
    """One series of checkpoints in a folder: how each is written by all ranks together.

    Args:
        prefix: of their names.
        link: name of the symbolic link to the newest one.
        newest: the last one that was completed.
    """

    folder: Path
    prefix: str
    link: str
    keep_last: int
    keep_every_n_steps: int | None = None
    weights_only: bool = False
    newest: Path | None = None

    def write(self, trainer: L.Trainer) -> str | None:
        """Write one; the reason if that failed, the same on all ranks."""
        checkpoint = self.folder / f"{self.prefix}_{trainer.global_step:08d}.ckpt"
        partial = files.partial_path(checkpoint)
        problem = _on_first(trainer, lambda: self._prepare(trainer, partial))
        if problem is None:
            problem = self._save(trainer, partial)
        sums: dict[str, FileSum] = {}
        if problem is None:
            sums, problem = _checksums(trainer, partial)
        if problem is None:
            problem = _on_first(trainer, lambda: self._commit(trainer, partial, checkpoint, sums))
        if problem is None:
            self.newest = checkpoint
            return None
        _on_first(trainer, lambda: files.delete(partial))
        return problem

    def _prepare(self, trainer: L.Trainer, partial: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        files.delete(partial)
        free, needed = shutil.disk_usage(self.folder).free, self._expected_bytes(trainer)
        if free < needed:
            raise OSError(f"about {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free in {self.folder}")

    def _save(self, trainer: L.Trainer, partial: Path) -> str | None:
        problem = None
        try:
            with _failed_parts(trainer.strategy) as failed:
                trainer.save_checkpoint(partial, self.weights_only)
            problem = failed[0] if failed else None
        except (OSError, RuntimeError, CheckpointException) as error:
            problem = _reason(error)
            trainer.strategy.barrier("failed checkpoint")  # the other ranks wait in Trainer.save_checkpoint
        problems = _gathered(trainer, problem)
        return next((one for one in problems if one is not None), None)

    def _commit(self, trainer: L.Trainer, partial: Path, checkpoint: Path, sums: dict[str, FileSum]) -> None:
        files.commit(partial, checkpoint, _manifest(trainer, sums))
        try:
            files.link(self.folder / self.link, checkpoint)
            files.prune(self.folder, self.prefix, trainer.global_step, self.keep_last, self.keep_every_n_steps)
        except OSError as error:  # no links on this file system, for example: the checkpoint is whole
            log.warning("%s is complete, but %s or an older one could not be changed: %s", checkpoint, self.link, error)

    def _expected_bytes(self, trainer: L.Trainer) -> int:
        """As many as the last one, or a guess from the parameters: float32 weights and two moments."""
        if self.newest is not None and files.manifest_path(self.newest).exists():
            return files.read_manifest(self.newest).bytes
        per_weight = 4 if self.weights_only else 12
        trained = [p for p in trainer.lightning_module.parameters() if p.requires_grad]
        return per_weight * sum(int(getattr(p, "ds_numel", p.numel())) for p in trained)


def set_progress(fit_loop: dict[str, Any], step: int, accumulation: int, validation_due: bool) -> None:
    """Make saved counters of Lightning's loops say: ``step`` optimizer steps done, the validation after them not yet.

    Lightning counts micro-batches and resumes in different ways depending on the hook a checkpoint was written in. The
    number of processes, and with it the micro-batches of a step, may be another one now; and a run stopped in the
    middle of a validation should validate anew. So the counters are derived from the step.

    Args:
        fit_loop: ``checkpoint["loops"]["fit_loop"]``, changed in place.
        accumulation: micro-batches of a step on each rank now.
    """
    done = step * accumulation
    progress = {"ready": done, "started": done, "processed": done, "completed": done - 1}  # the last batch is ending
    fit_loop["epoch_loop.batch_progress"] = {"total": progress, "current": dict(progress), "is_last_batch": False}
    # Lightning adds one where it takes the last batch to be complete, and one after the validation.
    fit_loop["epoch_loop.state_dict"] = {
        **fit_loop["epoch_loop.state_dict"],
        "_batches_that_stepped": step - 2 if validation_due else step - 1,
    }
    # One batch begun and not processed is what Lightning takes for an interrupted validation; it starts at 0 again.
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0} if validation_due else dict.fromkeys(progress, 0)
    nothing = dict.fromkeys(progress, 0)
    fit_loop["epoch_loop.val_loop.batch_progress"] = {"total": begun, "current": nothing, "is_last_batch": False}


@contextmanager
def _failed_parts(strategy: Strategy) -> Iterator[list[str]]:
    """Reasons why DeepSpeed could not write a file of this rank, instead of exceptions.

    An exception would take this rank out of DeepSpeed's save while the others wait for it there.
    """
    failed: list[str] = []
    if not isinstance(strategy, DeepSpeedStrategy):
        yield failed
        return
    engine = strategy.deepspeed_engine.checkpoint_engine
    save = engine.save

    def attempt(state_dict: Any, path: str) -> None:  # DeepSpeed gives both by name and by place
        try:
            save(state_dict, path)
        except (OSError, RuntimeError) as error:
            failed.append(_reason(error))

    engine.save = attempt
    try:
        yield failed
    finally:
        engine.save = save


def _manifest(trainer: L.Trainer, sums: dict[str, FileSum]) -> Manifest:
    datamodule: Any = getattr(trainer, "datamodule", None)
    consumed = datamodule.state_dict().get("consumed_samples", 0) if datamodule is not None else 0
    identities = [logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return Manifest(
        step=trainer.global_step,
        consumed_samples=consumed,
        world_size=trainer.world_size,
        strategy=type(trainer.strategy).__name__,
        precision=str(trainer.precision),
        files=sums,
        time=time.time(),
        command=shlex.join(sys.argv),
        metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
        wandb_id=identities[0] if identities else None,
    )


def _checksums(trainer: L.Trainer, partial: Path) -> tuple[dict[str, FileSum], str | None]:
    """Sums of all files of a checkpoint, each rank reading its share; and the reason if one failed."""
    names = trainer.strategy.broadcast(files.files_of(partial) if trainer.is_global_zero else [])
    sums: dict[str, FileSum] = {}
    problem = None
    try:
        for name in names[trainer.global_rank :: trainer.world_size]:
            sums[name] = files.checksum(partial / name if name else partial, sync=True)
    except OSError as error:
        problem = f"rank {trainer.global_rank} can't read it back: {_reason(error)}"
    gathered = _gathered(trainer, (sums, problem))
    merged = {name: one for part, _ in gathered for name, one in part.items()}
    return dict(sorted(merged.items())), next((reason for _, reason in gathered if reason), None)


def _on_first(trainer: L.Trainer, action: Callable[[], None]) -> str | None:
    """Do something on the first rank alone and tell all ranks why it failed, if it did."""
    problem = None
    if trainer.is_global_zero:
        try:
            action()
        except OSError as error:
            problem = _reason(error)
    return trainer.strategy.broadcast(problem)


def _gathered(trainer: L.Trainer, value: Any) -> list[Any]:
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:  # of FSDP2, the same on all ranks
        return _reason(next(iter(error.failures.values()))[0])
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):  # PyTorch's words for a failed write
        return "a file could not be written to its end, as on a full disk"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
