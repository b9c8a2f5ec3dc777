"""FLOPs of training, and rates over the last steps: tokens per second, model FLOPs utilisation, waiting for data.

A matrix product of a weight with a token takes 2 FLOPs a weight forward, 2 for the gradient of its input and 2 for its
own gradient: ``6 N`` a token, or ``4 N`` for frozen weights, which get no gradient themselves (Kaplan et al. 2020,
arXiv:2001.08361, without embeddings: those are looked up). Attention takes ``12 × heads × head size`` in each layer for
each pair of a query and a key in the same segment and not after it (Chowdhery et al. 2022, PaLM, arXiv:2204.02311,
appendix B, which counts pairs of a full square); heads are those of the queries, also where several share a key. The
language-model head counts only where there is a loss, because only there it is computed. What activation checkpointing
computes again does not count, nor does padding, which costs time: utilisation says what the data got.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class TrainingFlops:
    """Forward and backward FLOPs of what a batch holds.

    per_token: of all weights but the head.
    per_pair: of attention, for a query and a key.
    per_prediction: of the language-model head, for a token with a loss.
    """

    per_token: float
    per_pair: float
    per_prediction: float

    @classmethod
    def of(cls, model: nn.Module) -> "TrainingFlops":
        """Those of a transformers model, or of a peft model around one, whole or in pieces over ranks."""
        network: Any = model
        head = {module for module in network.get_output_embeddings().modules() if isinstance(module, nn.Linear)}
        linear = {module for module in network.modules() if isinstance(module, nn.Linear)}
        config = network.config
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            per_token=sum(map(linear_flops, linear - head)),
            per_pair=12 * config.num_hidden_layers * config.num_attention_heads * head_size,
            per_prediction=sum(map(linear_flops, head)),
        )

    def __call__(self, tokens: float, pairs: float, predictions: float) -> float:
        return self.per_token * tokens + self.per_pair * pairs + self.per_prediction * predictions


def linear_flops(layer: nn.Linear) -> int:
    """Of one token, forward and backward. Features, not elements: the latter may be packed or on another rank."""
    return layer.in_features * layer.out_features * (6 if layer.weight.requires_grad else 4)


@dataclass(frozen=True)
class Mark:
    """Totals at the end of an optimizer step.

    seconds: of training so far, without pauses.
    tokens, flops: of all devices.
    waited_s: in which a device waited for data, the mean over devices.
    """

    step: int
    seconds: float
    tokens: float
    flops: float
    waited_s: float


class Window:
    """Rates over the last ``steps`` optimizer steps, so that one slow step does not hide the trend.

    Args:
        steps: how far back to look; further where marks are rarer.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._marks: deque[Mark] = deque()

    def add(self, mark: Mark) -> None:
        self._marks.append(mark)
        while len(self._marks) > 2 and self._marks[1].step <= mark.step - self.steps:
            self._marks.popleft()

    def rates(self, devices: int, peak_flops: float) -> dict[str, float]:
        """What is logged of the window; nothing before its second mark.

        Args:
            devices: of the run.
            peak_flops: FLOP/s that one device reaches at best.
        """
        if len(self._marks) < 2:
            return {}
        first, last = self._marks[0], self._marks[-1]
        seconds, steps = last.seconds - first.seconds, last.step - first.step
        tokens_per_s = (last.tokens - first.tokens) / seconds
        waited = last.waited_s - first.waited_s
        return {
            "throughput/tokens_per_s": tokens_per_s,
            "throughput/tokens_per_s_per_device": tokens_per_s / devices,
            "throughput/mfu": (last.flops - first.flops) / seconds / devices / peak_flops,
            "throughput/step_time_s": seconds / steps,
            "throughput/data_wait_s": waited / steps,
            "throughput/data_wait_share": waited / seconds,
        }
