"""Experiment tracking: Weights & Biases where somebody is logged in, its offline mode where nobody is, a CSV always."""

import logging
import netrc
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


class WandbAxisLogger(WandbLogger):
    """A `WandbLogger` that draws losses over another number than the step.

    Args:
        x_axis: a logged number such as ``consumed/tokens``; None is the optimizer step.
        settings: those of `WandbLogger`.
    """

    def __init__(self, x_axis: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.x_axis = x_axis
        self._placed: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.x_axis in metrics:
            # By name, because which of two patterns wins is not defined and Lightning has one for all names.
            for name in metrics.keys() - self._placed:
                if name.startswith(("train/", "val/")):
                    self.experiment.define_metric(name, step_metric=self.x_axis)
            self._placed |= metrics.keys()
        super().log_metrics(metrics, step)


def wandb_logger(**settings: Any) -> WandbLogger:
    """A `WandbAxisLogger` that goes offline by itself when nobody is logged in, and says so.

    ``WANDB_MODE`` and an explicit ``offline=`` are obeyed.
    """
    if settings.get("offline") is None:
        mode = os.environ.get("WANDB_MODE")
        settings["offline"] = mode == "offline" or (mode is None and not is_logged_in())
        if mode is None and settings["offline"]:
            log.info("nobody is logged in to Weights & Biases: tracking offline, wandb sync uploads it later")
    if settings["offline"]:
        settings["settings"] = wandb.Settings(silent=True)
    return WandbAxisLogger(**settings)


def is_logged_in() -> bool:
    """Whether a Weights & Biases key lies in the environment or in ``~/.netrc``, without asking the network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
