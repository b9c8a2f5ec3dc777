"""A profile of a few training steps by PyTorch's profiler: where time and memory go, operator by operator.

A trace of a whole run would not fit into memory, so some steps are skipped (the first are slow: kernels are chosen,
memory is taken), some run with the profiler on but without keeping anything (it is slow at first itself), and the next
are recorded. Then the profiler is off and the run goes on at its own speed.
"""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, schedule

from src.callbacks.metrics import Metrics

log = logging.getLogger(__name__)


class ProfileSteps(Callback):
    """Records ``steps`` optimizer steps of rank 0 and writes ``trace.json.gz`` and ``operators.txt``.

    Args:
        folder: where to write.
        skip: optimizer steps to wait first.
        warmup: steps with the profiler on before it records.
        steps: to record.
        rows: of each table of operators.
        shapes: also record the shapes of inputs; a larger trace.
        stacks: also record Python's call stacks; much slower.
    """

    def __init__(
        self,
        folder: str,
        skip: int = 5,
        warmup: int = 2,
        steps: int = 10,
        rows: int = 30,
        shapes: bool = False,
        stacks: bool = False,
    ) -> None:
        self.folder, self.rows, self.shapes, self.stacks = Path(folder), rows, shapes, stacks
        self.skip, self.warmup, self.steps = skip, warmup, steps
        self._profiler: profile | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        needed = self.skip + self.warmup + self.steps
        left = trainer.max_steps - trainer.global_step
        if left < needed:
            log.warning("no profile: it takes %d steps and %d are left; lower profiler.skip", needed, left)
            return
        self._profiler = profile(
            activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available(),
            schedule=schedule(wait=self.skip, warmup=self.warmup, active=self.steps, repeat=1),
            on_trace_ready=lambda found: self._write(found, pl_module.device),
            profile_memory=True,
            record_shapes=self.shapes,
            with_stack=self.stacks,
        )
        self._profiler.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._profiler is None or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        last = self._profiler.step_num + 1 >= self.skip + self.warmup + self.steps
        if last:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Metrics):
                    callback.pause()  # making the tables takes seconds
        self._profiler.step()
        if last:
            self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._profiler is not None:
            log.warning("no profile: the run ended after %d of its steps", self._profiler.step_num)
            self._profiler.on_trace_ready = None
            self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None  # its events go with it

    def _write(self, found: profile, device: torch.device) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / "trace.json.gz"
        found.export_chrome_trace(str(trace))
        averages = found.key_averages(group_by_input_shape=self.shapes)
        kind = "cuda" if device.type == "cuda" else "cpu"
        by_time = averages.table(sort_by=f"self_{kind}_time_total", row_limit=self.rows)
        by_memory = averages.table(sort_by=f"self_{kind}_memory_usage", row_limit=self.rows)
        text = f"{self.steps} optimizer steps, by time in the operator itself\n{by_time}\n"
        text += f"the same, by memory that the operator itself took and kept\n{by_memory}\n"
        (self.folder / "operators.txt").write_text(text, encoding="utf-8")
        log.info(
            "profile of %d steps: %s lists the operators; open %s at https://ui.perfetto.dev or chrome://tracing",
            self.steps,
            self.folder / "operators.txt",
            trace,
        )
