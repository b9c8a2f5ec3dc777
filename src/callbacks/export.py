"""What people take away from a run: a Hugging Face folder, or a PEFT folder where an adapter was trained."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy

from src.models.export import base_reference, export_adapter, export_model
from src.models.load import load_tokenizer
from src.models.spec import ModelSpec

log = logging.getLogger(__name__)


class Export(Callback):
    """Writes the trained model to ``folder`` when training has run to its end.

    Under ZeRO-3 no process holds the weights: there, `scripts/export.py checkpoint=…` consolidates a checkpoint.

    Args:
        folder: of the export.
        data: one line for the model card: what it was trained on.
    """

    def __init__(self, folder: str, data: str = "") -> None:
        self.folder, self.data = Path(folder), data

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step < trainer.max_steps or not trainer.is_global_zero:
            return
        if isinstance(trainer.strategy, DeepSpeedStrategy) and trainer.strategy.zero_stage_3:
            log.warning("ZeRO-3 keeps the weights in pieces: export with python scripts/export.py checkpoint=…")
            return
        module: Any = pl_module
        spec: ModelSpec = module.spec
        card = {
            "base_model": spec.hub_id or spec.name,
            "license": spec.license,
            "training_data": self.data,
            "note": f"{trainer.global_step} optimizer steps",
        }
        if module.hparams["adapter"]:
            export_adapter(module.model, self.folder, base_reference(spec), card)
        else:
            export_model(module.model, load_tokenizer(spec), self.folder, card)
        log.info("exported to %s", self.folder)
