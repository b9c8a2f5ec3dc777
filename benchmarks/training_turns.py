"""How training loops in processes of their own take turns: a few steps each, so that a busy machine slows all alike.

A loop in a child process (``benchmarks/training_worker.py``) calls `TURNS.begin` before every optimizer step. There it
reports what its last turn took and waits until the parent, a `Contestant`, says ``go``. A turn lasts from one wait to
the next: everything that the loop does in between is in it, whoever does it. Messages are JSON lines over pipes.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from transformers import TrainerCallback

WORKER = Path(__file__).resolve().with_name("training_worker.py")


@dataclass(frozen=True)
class Turn:
    """What one turn took.

    tokens: real tokens, without padding.
    positions: tokens that went through the model, with padding.
    loss: of the last optimizer step, in nats per token; None where the loop does not say.
    """

    wall_s: float
    cpu_s: float
    steps: int
    tokens: int
    positions: int
    loss: float | None


class Turns:
    """The child's side. One for each process: `TURNS`."""

    def __init__(self) -> None:
        self.steps_per_turn = 1
        self.device = torch.device("cpu")
        self.model: Any = None
        self._channel: IO[str] | None = None
        self._steps = 0
        self._running = False
        self._started = (0.0, 0.0)
        self._batches: list[dict[str, Tensor]] = []
        self._loss: Any = None

    def open(self, channel: int, steps_per_turn: int, device: str) -> None:
        """Send messages to a file descriptor: libraries print to standard output what they like."""
        self.steps_per_turn, self.device = steps_per_turn, torch.device(device)
        self._channel = os.fdopen(channel, "w", buffering=1)

    def begin(self) -> None:
        """An optimizer step begins."""
        if self._running and self._steps < self.steps_per_turn:
            self._steps += 1
            return
        self.wait()
        self._steps, self._running = 1, True
        self._started = self._now()

    def wait(self) -> None:
        """Report the turn that is over, if there is one, and wait for the next."""
        self.end()
        self.send({"event": "waiting"})
        if sys.stdin.readline().strip() != "go":
            sys.exit(0)

    def saw(self, batch: dict[str, Tensor], loss: Any = None) -> None:
        """A micro-batch of the running step; looked at only when the clock has stopped."""
        self._batches.append(batch)
        self._loss = loss

    def end(self) -> None:
        """Report the turn that is over, if there is one."""
        if not self._running:
            return
        wall, cpu = (after - before for before, after in zip(self._started, self._now(), strict=True))
        self._running = False
        loss = self._loss() if callable(self._loss) else self._loss
        turn = {
            "wall_s": wall,
            "cpu_s": cpu,
            "steps": self._steps,
            "tokens": sum(real_tokens(batch) for batch in self._batches),
            "positions": sum(batch["input_ids"].numel() for batch in self._batches),
            "loss": None if loss is None else float(loss),
        }
        self._batches = []
        self.send({"event": "turn", **turn})

    def send(self, message: dict[str, Any]) -> None:
        assert self._channel is not None
        self._channel.write(json.dumps(message) + "\n")

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


TURNS = Turns()


class LightningTurns(Callback):
    """Hands a Lightning run's optimizer steps to `TURNS`. Must be the first of the callbacks."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            TURNS.begin()
            TURNS.model = pl_module.model

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        TURNS.saw(batch, lambda: trainer.callback_metrics.get("train/loss"))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        TURNS.end()


class HuggingFaceTurns(TrainerCallback):
    """Hands the optimizer steps of a Hugging Face ``Trainer`` to `TURNS`."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        TURNS.begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        TURNS.end()


def real_tokens(batch: dict[str, Tensor]) -> int:
    """Tokens that are no padding: as our loader counted them, as the mask says, or all of them."""
    if "counts" in batch:
        return int(batch["counts"][:, 0].sum())
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def peak_memory_gb(device: torch.device) -> float:
    """The most memory this process has had, in 10^9 bytes: of the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@dataclass
class Contestant:
    """The parent's side of one training loop.

    name: in tables.
    settings: what the worker gets, see `training_worker.Settings`.
    folder: for its run, settings and log.
    turns: those measured so far; the first one, which also warms up, is among them.
    end: what the worker said at its end.
    """

    name: str
    settings: dict[str, Any]
    folder: Path
    turns: list[Turn] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process; it loads libraries and waits."""
        self.folder.mkdir(parents=True)
        settings = self.folder / "settings.json"
        settings.write_text(json.dumps(self.settings | {"output_dir": str(self.folder / "run")}, indent=1))
        receiver, channel = os.pipe()
        with (self.folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), str(settings), str(channel)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                pass_fds=[channel],
            )
        os.close(channel)
        self._messages = os.fdopen(receiver)

    def ready(self) -> None:
        """Wait until the loop stands before its next turn."""
        assert self._next()["event"] == "waiting"

    def go(self) -> dict[str, Any]:
        """Let it run to its next wait, or to its end; returns its last message.

        Raises:
            RuntimeError: the process has failed; with the end of its log.
        """
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        while (message := self._next())["event"] == "turn":
            self.turns.append(Turn(**{key: value for key, value in message.items() if key != "event"}))
        if message["event"] == "end":
            self.end = message
        return message

    def _next(self) -> dict[str, Any]:
        line = self._messages.readline()
        if not line:
            status = self.process.wait()
            log = (self.folder / "log.txt").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended with status {status}: …{log}")
        return json.loads(line)

    def stop(self) -> None:
        """End the process if it still runs."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self._messages.close()

    @property
    def measured(self) -> list[Turn]:
        """The turns that count: all but the first."""
        return self.turns[1:]


def race(contestants: Sequence[Contestant], turns: Sequence[int]) -> None:
    """Run every contestant's turns, always the one that has done the least of its share, then their ends.

    Each round begins with another one, so that none always follows the same neighbour.

    Args:
        turns: how many each has.
    """
    try:
        for contestant in contestants:  # one after the other: loading takes all cores
            contestant.start()
            contestant.ready()
            contestant.go()  # to the first step, the model in memory
        done = [0] * len(contestants)
        while any(count < total for count, total in zip(done, turns, strict=True)):
            first = max(done) % len(contestants)
            order = sorted(range(len(contestants)), key=lambda i: (done[i] / turns[i], (i - first) % len(contestants)))
            contestants[order[0]].go()
            done[order[0]] += 1
        for contestant in contestants:
            if not contestant.end:
                contestant.go()
    finally:
        for contestant in contestants:
            contestant.stop()
