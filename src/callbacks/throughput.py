"""Tokens per second and model FLOPs utilisation.

FLOPs of a token are ``6 N``, or ``4 N`` for frozen weights, which get no gradients themselves; those of attention are
``12 × layers × hidden`` for each pair of a query and a key in the same segment and not after it (Chowdhery et al. 2022,
PaLM, arXiv:2204.02311, appendix B, which counts pairs of a full square). The language-model head counts only where
there is a loss, because only there it is computed. Padding counts as time but not as tokens, so both numbers say what
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
        self._token_flops = 0.0
        self._pair_flops = 0.0
        self._head_flops = 0.0
        self._paused_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._peak = peak_flops(pl_module.device, str(trainer.precision)) * trainer.world_size
        model: Any = pl_module.model
        self._token_flops = sum(parameter_flops(parameter) for parameter in model.parameters())
        self._head_flops = parameter_flops(model.get_output_embeddings().weight)
        self._pair_flops = 12 * model.config.num_hidden_layers * model.config.hidden_size
        self._marks = [(time.perf_counter(), 0.0, 0.0)]
        self._tokens = self._flops = self._paused_at = 0.0  # the model may have been validated before

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        tokens, pairs = tokens_and_pairs(batch)
        without_loss = tokens - int((batch["labels"] != -100).sum())
        flops = self._token_flops * tokens + self._pair_flops * pairs - self._head_flops * without_loss
        self._tokens += tokens * trainer.world_size
        self._flops += flops * trainer.world_size
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._marks = [*self._marks[-self.window :], (time.perf_counter(), self._tokens, self._flops)]
        (start, tokens_before, flops_before), (end, tokens_now, flops_now) = self._marks[0], self._marks[-1]
        seconds = end - start
        pl_module.log("throughput/tokens_per_s", (tokens_now - tokens_before) / seconds)
        pl_module.log("throughput/mfu", (flops_now - flops_before) / seconds / self._peak)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused_at = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if self._paused_at:  # validation, and what follows it, is not training time
            pause = time.perf_counter() - self._paused_at
            self._marks = [(moment + pause, tokens, flops) for moment, tokens, flops in self._marks]
            self._paused_at = 0.0


def parameter_flops(parameter: Tensor) -> float:
    """Of one token, forward and backward."""
    size = getattr(parameter, "ds_numel", parameter.numel())  # under ZeRO-3 a rank holds a slice
    return size * (6 if parameter.requires_grad else 4)


def tokens_and_pairs(batch: dict[str, Tensor]) -> tuple[int, float]:
    """Real tokens of a batch, and query-key pairs within its segments under a causal mask."""
    positions = batch["position_ids"]
    # Padding is the last segment of a row that is not full: it has no labels from its first token on.
    real = torch.cumsum((batch["labels"] != -100).flip(1), 1).flip(1) > 0
    tokens = int(real.sum())
    return tokens, float(((positions + 1) * real).sum())
