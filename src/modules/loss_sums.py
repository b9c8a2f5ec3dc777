"""Training loss by source, added up on the device: nothing is copied or sent until somebody wants to see it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from src.modules.loss import SupervisedLoss


class LossSums:
    """Sums over the training steps since the last `reset`.

    A loss that is not finite counts neither in the sum nor as a token, so one broken batch does not hide the others of
    an interval; where all are, the mean is NaN.

    Args:
        names: of the sources, in the order of their numbers in a batch.
        byte_lengths: UTF-8 bytes of each token id, ``[vocabulary]``.
        device: where the losses are.

    Attributes:
        sums: nats, tokens and bytes of each source, ``[sources, 3]``, float64.
    """

    def __init__(self, names: Sequence[str], byte_lengths: Tensor, device: torch.device) -> None:
        self.names, self.byte_lengths = list(names), byte_lengths.to(device)
        self.sums = torch.zeros(len(self.names), 3, dtype=torch.float64, device=device)

    def add(self, loss: SupervisedLoss, source: Tensor) -> None:
        """Add a micro-batch; ``source`` is the number of each row's source, ``[batch]``."""
        finite = loss.tokens.isfinite()
        columns = (loss.tokens.nan_to_num(0.0, 0.0, 0.0), finite, self.byte_lengths[loss.targets] * finite)
        self.sums.index_add_(0, source[loss.rows], torch.stack([column.double() for column in columns], dim=1))

    def reset(self) -> None:
        self.sums.zero_()

    def metrics(self, sums: Sequence[Sequence[float]]) -> dict[str, float]:
        """What is logged of sums over all ranks: the mean loss of all tokens, of each source, and bits per byte."""
        total = [sum(column) for column in zip(*sums, strict=True)]
        found = {
            "train/loss": total[0] / total[1] if total[1] else math.nan,
            "train/bits_per_byte": total[0] / math.log(2) / total[2] if total[2] else math.nan,
        }
        for name, (nats, tokens, text_bytes) in zip(self.names, sums, strict=True):
            if tokens:
                found[f"train/{name}/loss"] = nats / tokens
                found[f"train/{name}/bits_per_byte"] = nats / math.log(2) / max(text_bytes, 1)
        return found
