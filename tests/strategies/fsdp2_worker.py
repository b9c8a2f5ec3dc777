"""Callbacks for runs of a plan under FSDP2; see `zero_worker`, which carries them out."""

import json
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from src.strategies.fsdp2 import FullyShard, gathered_state_dict
from tests.strategies.zero_worker import measured_memory


class Pieces(Callback):
    """Writes down what a process holds while it trains: memory to get there, own elements, ``weights`` at the end."""

    def __init__(self, folder: str, weights: bool = True) -> None:
        self.folder, self.weights, self.found = Path(folder), weights, dict[str, Any]()
        self._memory = measured_memory()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._peak = self._memory.__enter__()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._memory.__exit__()
        parameters: list[Any] = list(pl_module.parameters())
        self.found["peak_bytes"] = self._peak()
        self.found["own"] = sum(p.to_local().numel() for p in parameters)
        self.found["all"] = sum(p.numel() for p in parameters)
        self.found["dtypes"] = sorted({str(p.dtype) for p in parameters})
        self.found["syncs"] = []

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.found["syncs"].append(any(p.grad is not None for p in pl_module.parameters()))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(trainer.strategy, FullyShard)
        if self.weights:
            whole = gathered_state_dict(pl_module.model)
            if trainer.is_global_zero:
                torch.save(whole, self.folder / "weights.pt")
        (self.folder / f"pieces_{os.environ['RANK']}.json").write_text(json.dumps(self.found))
