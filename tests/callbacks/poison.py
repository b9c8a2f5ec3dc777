"""Callbacks that spoil steps of a run and write down what became of it; for the tests of the guard."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.callbacks.guard import Guard


class Poison(Callback):
    """Spoils optimizer steps, counted from 1, in their first micro-batch.

    Args:
        kind: ``loss`` makes hidden states NaN and with them the loss and all gradients; ``gradient`` the gradients
            only; ``spike`` makes gradients a thousand times larger.
        rank: the only process that does it.
    """

    def __init__(self, kind: str, steps: Sequence[int], rank: int = 0) -> None:
        self.kind, self.steps, self.rank = kind, list(steps), rank
        self._active = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        layers = next(module.layers for module in pl_module.modules() if hasattr(module, "layers"))
        layers[0].register_forward_hook(self._spoil)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        self._active = first and trainer.global_step + 1 in self.steps and trainer.global_rank == self.rank

    def _spoil(self, layer: torch.nn.Module, inputs: Any, hidden: Tensor) -> Tensor:
        if self._active and self.kind == "loss":
            return hidden * float("nan")
        if self._active:
            factor = 1000.0 if self.kind == "spike" else float("nan")
            hidden.register_hook(lambda gradient: gradient * factor)
        return hidden


class Witness(Callback):
    """Writes a digest of this process's weights and optimizer state after each step, and the guard's state at the end.

    Attributes of ``FOLDER/witness_RANK.json``: ``weights`` and ``moments``, a digest for each step; ``skipped``, the
    logged count; ``guard``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.found: dict[str, Any] = {"weights": [], "moments": [], "skipped": [], "guard": None}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        state = [optimizer.state for optimizer in trainer.optimizers]
        moments = [v for one in state for values in one.values() for v in values.values()]
        self.found["weights"].append(digest(list(pl_module.parameters())))
        self.found["moments"].append(digest(moments))
        if "train/skipped_steps" in pl_module.step_metrics:
            self.found["skipped"].append(float(pl_module.step_metrics["train/skipped_steps"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for guard in (callback for callback in trainer.callbacks if isinstance(callback, Guard)):
            state = guard.state_dict()
            self.found["guard"] = {**state, "history": state["history"].tolist()}
        (self.folder / f"witness_{trainer.global_rank}.json").write_text(json.dumps(self.found))


def digest(tensors: Sequence[Any]) -> str:
    """Of the bytes of this process's part of some tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        found.update(local.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
