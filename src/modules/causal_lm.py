"""Causal-language-model training: from random or pretrained weights, all of them trained.

`LoRA` in the file beside this one trains an adapter instead; everything else is the same. The loss of a step is the
mean over all supervised tokens of the *global* batch: each micro-batch divides its summed loss by ``loss_tokens``,
which the data module computes ahead (see `src.datamodules.batches.PackedDataset`).
"""

import math
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn

from src.errors import UserError
from src.models.download import resolve
from src.models.load import load_model
from src.models.spec import ModelSpec
from src.models.tokenizer import open_encoder
from src.modules.loss import decoder_and_head, supervised_loss, token_losses
from src.modules.optimizer import AdamW, Schedule
from src.strategies.deepspeed import partition_while_loading

Batch = dict[str, Tensor]


class CausalLM(L.LightningModule):
    """Trains every weight of a causal language model on packed rows.

    Logs ``train/loss``, ``train/lr`` and ``train/grad_norm`` each step; at each validation and for each source
    ``val/SOURCE/loss`` (nats per token), ``val/SOURCE/perplexity`` and ``val/SOURCE/bits_per_byte`` (comparable between
    tokenizers), and ``val/loss``, ``val/bits_per_byte``: their means over the sources.

    Args:
        model: which weights, or which architecture if ``from_scratch``.
        optimizer: learning rate, betas, weight decay.
        scheduler: warm-up and decay.
        from_scratch: start from random weights.
        gradient_checkpointing: recompute activations in the backward pass: about a third more time, far less memory.
        compile: compile the decoder with ``torch.compile``.
        dtype: of the weights; float32 keeps small updates that bfloat16 would round away.
        attn_implementation: as transformers names it: sdpa, eager, flash_attention_2, flex_attention.
    """

    def __init__(
        self,
        model: ModelSpec,
        optimizer: AdamW,
        scheduler: Schedule,
        from_scratch: bool = False,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
    ) -> None:
        super().__init__()
        self.spec, self.optimizer_settings, self.schedule = model, optimizer, scheduler
        self.from_scratch, self.gradient_checkpointing, self.use_compile = from_scratch, gradient_checkpointing, compile
        self.weights_dtype, self.attn_implementation = dtype, attn_implementation
        self.save_hyperparameters({"model": asdict(model), "adapter": None})
        self.model: nn.Module | None = None
        self.validation_names: list[str] = []
        self.guard: Any = None  # `src.callbacks.guard.Guard` puts itself here
        self._finished_loss: Tensor | None = None  # of the optimizer step that comes next, once all of it is there
        self._step_loss: Tensor = torch.zeros(())  # mean over the micro-batches of the running optimizer step
        self._sums: dict[str, Tensor] = {}
        self._byte_lengths: Tensor | None = None

    # Building

    def configure_model(self) -> None:
        if self.model is not None:  # called again before validation
            return
        with partition_while_loading(self.trainer.strategy if self._trainer else None) as keep_alive:
            self._partitioning = keep_alive
            self.model = self.build()
        self.model.train()

    def build(self) -> nn.Module:
        """The model with everything switched on that was asked for, on the CPU or partitioned under ZeRO-3."""
        model = load_model(
            self.spec,
            dtype=self.weights_dtype,
            attn_implementation=self.attn_implementation,
            from_scratch=self.from_scratch,
        )
        model.config.use_cache = False
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.use_compile:
            decoder, _ = decoder_and_head(model)
            (decoder or model).compile()
        return model

    def configure_optimizers(self) -> Any:
        assert self.model is not None
        scaled = str(self.trainer.precision).startswith("16")
        optimizer = self.optimizer_settings.build(self.model, gradients_are_scaled=scaled)
        scheduler = self.schedule.build(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses fused AdamW with clipping under bf16-mixed, which scales nothing (lightning 2.6.6).
        if isinstance(self.trainer.strategy, (DeepSpeedStrategy, FSDPStrategy)) or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            self._guard_step(optimizer, None)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        if hasattr(norm, "full_tensor"):  # FSDP2: a norm over all shards that no rank has computed yet
            norm = norm.full_tensor()
        self.log("train/grad_norm", norm)
        self._guard_step(optimizer, norm)

    def _guard_step(self, optimizer: Any, norm: Tensor | None) -> None:
        if self.guard is not None and self._finished_loss is not None:  # None between DeepSpeed's micro-batches
            self.guard.before_step(self.trainer, optimizer, self._finished_loss, norm)
            self.log("train/skipped_steps", self.guard.steps.skipped)

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        found = supervised_loss(self._network(), batch)
        accumulation = self.trainer.accumulate_grad_batches
        loss = found.total * (accumulation * self.trainer.world_size / batch["loss_tokens"][0])
        self._step_loss = self._step_loss.to(loss.device) + loss.detach() / accumulation
        self._finished_loss = None
        if (batch_idx + 1) % accumulation == 0:
            self._finished_loss = self._step_loss
            self.log("train/loss", self._step_loss, prog_bar=True, sync_dist=self.trainer.world_size > 1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
            self._step_loss = loss.new_zeros(())
        return loss

    # Validation

    def on_validation_epoch_start(self) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        self.validation_names = list(getattr(datamodule, "validation_names", [])) or ["validation"]
        if self._byte_lengths is None:
            encoder = open_encoder(resolve(self.spec), engine="reference")  # opens in no time: nothing is encoded
            self._byte_lengths = torch.from_numpy(encoder.byte_lengths).to(self.device)
        self._sums = {name: torch.zeros(3, dtype=torch.float64, device=self.device) for name in self.validation_names}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert self._byte_lengths is not None
        losses, targets = token_losses(self._network(), batch)
        sums = self._sums[self.validation_names[dataloader_idx]]
        sums += torch.stack([losses.double().sum(), sums.new_tensor(len(targets)), self._byte_lengths[targets].sum()])

    def on_validation_epoch_end(self) -> None:
        means = []
        for name, sums in self._sums.items():
            nats, tokens, text_bytes = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
            if tokens:
                loss, bits_per_byte = nats / tokens, nats / math.log(2) / max(text_bytes, 1)
                means.append((loss, bits_per_byte))
                self.log(f"val/{name}/loss", loss, sync_dist=True)
                self.log(f"val/{name}/perplexity", math.exp(min(loss, 80)), sync_dist=True)
                self.log(f"val/{name}/bits_per_byte", bits_per_byte, sync_dist=True)
        if means:
            loss, bits_per_byte = (sum(values) / len(means) for values in zip(*means, strict=True))
            self.log("val/loss", loss, prog_bar=True, sync_dist=True)
            self.log("val/bits_per_byte", bits_per_byte, sync_dist=True)

    # Helpers

    def _network(self) -> nn.Module:
        if self.model is None:
            raise UserError("the module has no model yet: call configure_model() or run it through a Trainer")
        return self.model
