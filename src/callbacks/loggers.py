"""Experiment tracking: Weights & Biases where somebody is logged in, its offline mode where nobody is, a CSV always."""

import csv
import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

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


class CsvLogger(CSVLogger):
    """A `CSVLogger` that loses no row where a write fails, on a full disk for example.

    Rows that could not be written are written with the next ones. When a new column comes, the file is written anew
    beside the old one and renamed; Lightning empties the old one first.
    """

    @rank_zero_only
    def save(self) -> None:
        """Raises `OSError` where the rows can't be written; they are kept."""
        writer: Any = self.experiment
        if not writer.metrics:
            return
        path = Path(writer.metrics_file_path)
        columns = sorted({*writer.metrics_keys}.union(*writer.metrics))
        if path.exists() and columns == writer.metrics_keys:
            size = path.stat().st_size
            try:
                with path.open("a", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, columns).writerows(writer.metrics)
            except OSError:
                os.truncate(path, size)  # half a row
                raise
        else:
            former: list[dict[str, Any]] = []
            if path.exists():
                with path.open(encoding="utf-8", newline="") as file:
                    former = list(csv.DictReader(file))
            temporary = path.with_name(f".{path.name}.partial")
            with temporary.open("w", encoding="utf-8", newline="") as file:
                out = csv.DictWriter(file, columns)
                out.writeheader()
                out.writerows([*former, *writer.metrics])
            temporary.replace(path)
            writer.metrics_keys = columns
        writer.metrics = []


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
