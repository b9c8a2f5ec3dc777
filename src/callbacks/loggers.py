"""Experiment tracking: Weights & Biases where somebody is logged in, its offline mode where nobody is, a CSV always."""

import logging
import netrc
import os
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(**settings: Any) -> WandbLogger:
    """A `WandbLogger` that goes offline by itself when nobody is logged in, and says so.

    ``WANDB_MODE`` and an explicit ``offline=`` are obeyed.
    """
    if settings.get("offline") is None:
        mode = os.environ.get("WANDB_MODE")
        settings["offline"] = mode == "offline" or (mode is None and not is_logged_in())
        if mode is None and settings["offline"]:
            log.info("nobody is logged in to Weights & Biases: tracking offline, wandb sync uploads it later")
    if settings["offline"]:
        settings["settings"] = wandb.Settings(silent=True)
    return WandbLogger(**settings)


def is_logged_in() -> bool:
    """Whether a Weights & Biases key lies in the environment or in ``~/.netrc``, without asking the network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
