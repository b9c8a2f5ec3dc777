"""Tokens per second and model FLOPs utilisation.

FLOPs of a token are ``6 N + 6 layers × hidden × mean segment length`` (Chowdhery et al. 2022, PaLM, arXiv:2204.02311,
appendix B, with causal attention within each packed segment counted once), ``4 N`` for the frozen weights of an
adapter run, whose own gradients are not computed. Padding counts as time but not as tokens, so both numbers say what
the data got.
"""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.strategies.hardware import peak_flops


class Throughput(Callback):
    """Logs ``throughput/tokens_per_s`` (all devices) and ``throughput/mfu`` every optimizer step.

    Both are means over the last ``window`` steps, so that one slow step does not hide the trend.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self._marks: list[tuple[float, float, float]] = []  # time, tokens and FLOPs so far
        self._tokens = 0.0
        self._flops = 0.0
        self._peak = 0.0
        self._sizes = (0, 0, 0)
        self._paused_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._peak = peak_flops(pl_module.device, str(trainer.precision)) * trainer.world_size
        frozen = trained = 0
        for parameter in pl_module.parameters():
            size = getattr(parameter, "ds_numel", parameter.numel())
            trained, frozen = (trained + size, frozen) if parameter.requires_grad else (trained, frozen + size)
        config = getattr(getattr(pl_module, "model", None), "config", None)
        width = getattr(config, "num_hidden_layers", 0) * getattr(config, "hidden_size", 0)
        self._sizes = (trained, frozen, width)
        self._marks = [(time.perf_counter(), 0.0, 0.0)]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        tokens, pairs = _tokens_and_pairs(batch)
        trained, frozen, width = self._sizes
        self._tokens += tokens * trainer.world_size
        self._flops += ((6 * trained + 4 * frozen) * tokens + 12 * width * pairs) * trainer.world_size
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._marks = [*self._marks[-self.window :], (time.perf_counter(), self._tokens, self._flops)]
        (start, tokens_before, flops_before), (end, tokens_now, flops_now) = self._marks[0], self._marks[-1]
        seconds = end - start
        pl_module.log("throughput/tokens_per_s", (tokens_now - tokens_before) / seconds)
        pl_module.log("throughput/mfu", (flops_now - flops_before) / seconds / self._peak)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pause = time.perf_counter() - self._paused_at  # validation is not training time
        self._marks = [(moment + pause, tokens, flops) for moment, tokens, flops in self._marks]


def _tokens_and_pairs(batch: dict[str, Tensor]) -> tuple[int, float]:
    """Real tokens of a batch, and query-key pairs within its segments under a causal mask."""
    positions = batch["position_ids"]
    # Padding is the last segment of a row that is not full: it has no labels from its first token on.
    real = torch.cumsum((batch["labels"] != -100).flip(1), 1).flip(1) > 0
    tokens = int(real.sum())
    return tokens, float(((positions + 1) * real).sum())
