"""What people take away from a run: a Hugging Face folder, or a PEFT folder where an adapter was trained."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from src.models.export import base_reference, export_adapter, export_model
from src.models.load import load_tokenizer
from src.models.spec import ModelSpec
from src.strategies.deepspeed import ZeroStrategy
from src.strategies.fsdp2 import FullyShard, gathered_state_dict

log = logging.getLogger(__name__)


class Export(Callback):
    """Writes the trained model to ``folder`` when training has run to its end.

    Where the weights lie in pieces over all processes they are gathered into the memory of the first one's host, one
    parameter after the other. Where they don't fit there, ``callbacks.export=null`` leaves this out, and
    ``scripts/export.py checkpoint=…`` makes an export of a checkpoint on a larger machine.

    Args:
        folder: of the export.
        data: one line for the model card: what it was trained on.
    """

    def __init__(self, folder: str, data: str = "") -> None:
        self.folder, self.data = Path(folder), data

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step < trainer.max_steps:
            return
        module: Any = pl_module
        weights = whole_weights(trainer, module.model, trained_only=bool(module.hparams["adapter"]))
        if not trainer.is_global_zero:
            return
        spec: ModelSpec = module.spec
        card = {
            "base_model": spec.hub_id or spec.name,
            "license": spec.license,
            "training_data": self.data,
            "note": f"{trainer.global_step} optimizer steps",
        }
        if module.hparams["adapter"]:
            export_adapter(module.model, self.folder, base_reference(spec), card, weights)
        else:
            export_model(module.model, load_tokenizer(spec), self.folder, card, weights)
        log.info("exported to %s", self.folder)


def whole_weights(trainer: L.Trainer, model: nn.Module, trained_only: bool) -> dict[str, Tensor] | None:
    """Weights gathered on the first process, where the model holds pieces of them; None where it holds them itself.

    All processes must call it.
    """
    if isinstance(trainer.strategy, ZeroStrategy):
        return trainer.strategy.gathered_state_dict(model, trained_only)
    if isinstance(trainer.strategy, FullyShard):
        return gathered_state_dict(model, trained_only)
    return None
