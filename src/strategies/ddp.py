"""Data parallelism: every process holds the whole model, gradients are averaged (Li et al. 2020, arXiv:2006.15704)."""

from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import DDPStrategy


class DataParallel(DDPStrategy):
    """`DDPStrategy` with its timeout in seconds.

    Args:
        timeout_s: how long a process waits for the others in one communication.
        settings: of `DDPStrategy`.
    """

    def __init__(self, timeout_s: float = 1800, **settings: Any) -> None:
        super().__init__(timeout=timedelta(seconds=timeout_s), **settings)
