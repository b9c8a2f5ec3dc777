"""Causal-language-model training: from random or pretrained weights, all of them trained.

`LoRA` in the file beside this one trains an adapter instead; everything else is the same. The loss of a step is the
mean over all supervised tokens of the *global* batch: each micro-batch divides its summed loss by ``loss_tokens``,
which the data module computes ahead (see `src.datamodules.batches.PackedDataset`).
"""

import logging
import math
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoConfig

from src.errors import UserError
from src.models.activation_checkpointing import Checkpointing
from src.models.download import resolve
from src.models.load import load_model
from src.models.spec import ModelSpec
from src.models.tokenizer import open_encoder
from src.modules.attention import choose_attention
from src.modules.compiling import check_compile, compile_model
from src.modules.fused_loss import LossKernel
from src.modules.loss import supervised_loss, token_losses
from src.modules.loss_sums import LossSums
from src.modules.optimizer import AdamW, Schedule, restore_settings, settings_of
from src.modules.step_seed import run_seed, seed_micro_batch
from src.strategies.deepspeed import ZeroStrategy, partition_while_loading
from src.strategies.fsdp2 import FullyShard, call_within_root
from src.strategies.sharded_loading import build_sharded

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class CausalLM(L.LightningModule):
    """Trains every weight of a causal language model on packed rows.

    Adds up the training loss by source for `src.callbacks.metrics.Metrics`; at each validation and for each source logs
    ``val/SOURCE/loss`` (nats per token), ``val/SOURCE/perplexity`` and ``val/SOURCE/bits_per_byte`` (comparable between
    tokenizers), and ``val/loss``, ``val/bits_per_byte``: their means over the sources.

    Args:
        model: which weights, or which architecture if ``from_scratch``.
        optimizer: learning rate, betas, weight decay.
        scheduler: warm-up and decay.
        from_scratch: start from random weights.
        activation_checkpointing: none, full, selective or every_N, see `Checkpointing`.
        compile: False, True (the whole decoder) or "regional" (one layer for all), see `compile_model`.
        dtype: of the weights; float32 keeps small updates that bfloat16 would round away.
        attn_implementation: auto or one of `src.modules.attention.CHOICES`.
        loss: auto, chunked, liger or full, see `LossKernel`.
        loss_chunk_tokens: tokens whose logits exist at the same time.
        quantization: nf4 for frozen weights of 4 bits under an adapter (QLoRA); None for whole ones.
    """

    built_from_weights = False  # whether `build` computes something from the loaded weights

    def __init__(
        self,
        model: ModelSpec,
        optimizer: AdamW,
        scheduler: Schedule,
        from_scratch: bool = False,
        activation_checkpointing: str = "none",
        compile: bool | str = False,
        dtype: str = "float32",
        attn_implementation: str = "auto",
        loss: str = "auto",
        loss_chunk_tokens: int = 512,
        quantization: str | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.optimizer_settings, self.schedule = model, optimizer, scheduler
        self.from_scratch, self.compile_setting, self.quantization = from_scratch, compile, quantization
        self.weights_dtype, self.attn_implementation = dtype, attn_implementation
        self.checkpointing = Checkpointing.parse(activation_checkpointing)
        self.loss_kernel = LossKernel(loss, loss_chunk_tokens)
        self.save_hyperparameters({"model": asdict(model), "adapter": None})
        self.model: nn.Module | None = None
        self.validation_names: list[str] = []
        self._configured: list[dict[str, Any]] = []  # settings of the optimizer before a checkpoint is loaded
        self.guard: Any = None  # `src.callbacks.guard.Guard` puts itself here
        self._finished_loss: Tensor | None = None  # of the optimizer step that comes next, once all of it is there
        self._step_loss: Tensor = torch.zeros(())  # mean over the micro-batches of the running optimizer step
        self._sums: dict[str, Tensor] = {}
        self._byte_lengths: Tensor | None = None
        self.loss_sums = LossSums([], torch.zeros(0), torch.device("cpu"))  # since the last logged step
        self.step_metrics: dict[str, Tensor] = {}  # what `log` was given under train/, on the device

    # Building

    def configure_model(self) -> None:
        if self.model is not None:  # called again before validation
            return
        strategy = self.trainer.strategy if self._trainer else None
        with partition_while_loading(strategy) as keep_alive:
            self._partitioning = keep_alive
            if isinstance(strategy, FullyShard):
                random = self.from_scratch or self.spec.kind == "config"
                self.model = build_sharded(strategy, self.build, self.spec, random, self.built_from_weights)
            else:
                self.model = self.build()
        self.model.train()

    def build(self) -> nn.Module:
        """The model with everything switched on that was asked for, on the CPU or partitioned under ZeRO-3."""
        device, precision = torch.device("cpu"), ""
        if self._trainer:
            device, precision = self.trainer.strategy.root_device, str(self.trainer.precision)
        check_compile(self.compile_setting, device)
        if self.quantization:
            self.check_quantization()
        config = AutoConfig.from_pretrained(resolve(self.spec))
        sixteen_bit = precision.startswith(("bf16", "16")) or self.weights_dtype != "float32"
        model = load_model(
            self.spec,
            dtype=self.weights_dtype,
            attn_implementation=choose_attention(
                self.attn_implementation, config, device, sixteen_bit, bool(self.compile_setting)
            ),
            from_scratch=self.from_scratch,
            device=device if self.quantization else None,
            quantization=self.quantization,
        )
        model.config.use_cache = False
        self.checkpointing.apply(model)
        compile_model(model, self.compile_setting)
        return model

    def check_quantization(self) -> None:
        """Raises `UserError` where weights of 4 bits can't be trained on: here they would have to learn themselves."""
        raise UserError(
            f"module.quantization={self.quantization} freezes the weights and this run trains all of them: "
            "add adapter=qlora, or give module.quantization=null"
        )

    def configure_optimizers(self) -> Any:
        assert self.model is not None
        scaled = str(self.trainer.precision).startswith("16")
        optimizer = self.optimizer_settings.build(self.model, gradients_are_scaled=scaled)
        scheduler = self.schedule.build(optimizer, self.trainer.max_steps)
        self._configured = settings_of(optimizer)
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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeroStrategy) and (norm := strategy.grad_norm) is not None:
            self.log("train/grad_norm", norm)  # DeepSpeed clips and knows the norm within its own step

    def _guard_step(self, optimizer: Any, norm: Tensor | None) -> None:
        if self.guard is not None and self._finished_loss is not None:  # None between DeepSpeed's micro-batches
            self.guard.before_step(self.trainer, optimizer, self._finished_loss, norm)
            self.log("train/skipped_steps", self.guard.steps.skipped)

    # Training

    def on_train_start(self) -> None:
        names = list(self.trainer.datamodule.sources.train)  # type: ignore[attr-defined]
        self.loss_sums = LossSums(names, self._bytes_of_tokens(), self.device)
        optimizer, scheduler = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        if changed := restore_settings(optimizer, scheduler, self._configured):
            log.info("going on with other settings of the optimizer than the checkpoint's: %s", ", ".join(changed))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        accumulated = batch_idx % self.trainer.accumulate_grad_batches
        number = accumulated * self.trainer.world_size + self.trainer.global_rank
        seed_micro_batch(run_seed(), self.trainer.global_step, number)

    def log(self, name: str, value: Any, **settings: Any) -> None:  # type: ignore[override]
        """Training numbers are kept and read at logged steps; the `Metrics` callback is what writes to the loggers."""
        if name.startswith("train/"):
            self.step_metrics[name] = torch.as_tensor(value).detach()
        else:
            super().log(name, value, **{**settings, "logger": False})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        found = call_within_root(self._network(), supervised_loss, batch, self.loss_kernel)
        accumulation = self.trainer.accumulate_grad_batches
        self.loss_sums.add(found, batch["source"])
        loss = found.total * (accumulation * self.trainer.world_size / batch["loss_tokens"][0])
        self._step_loss = self._step_loss.to(loss.device) + loss.detach() / accumulation
        self._finished_loss = None
        if (batch_idx + 1) % accumulation == 0:
            self._finished_loss = self._step_loss
            self._step_loss = loss.new_zeros(())
        return loss

    # Validation

    def on_validation_epoch_start(self) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        self.validation_names = list(getattr(datamodule, "validation_names", [])) or ["validation"]
        self._bytes_of_tokens()
        self._sums = {name: torch.zeros(3, dtype=torch.float64, device=self.device) for name in self.validation_names}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert self._byte_lengths is not None
        losses, targets = call_within_root(self._network(), token_losses, batch, self.loss_kernel)
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
            self.log("val/loss", loss, sync_dist=True)
            self.log("val/bits_per_byte", bits_per_byte, sync_dist=True)

    # Helpers

    def _bytes_of_tokens(self) -> Tensor:
        """UTF-8 bytes of each token id, ``[vocabulary]``, on the module's device."""
        if self._byte_lengths is None:
            encoder = open_encoder(resolve(self.spec), engine="reference")  # opens in no time: nothing is encoded
            self._byte_lengths = torch.from_numpy(encoder.byte_lengths).to(self.device)
        return self._byte_lengths

    def _network(self) -> nn.Module:
        if self.model is None:
            raise UserError("the module has no model yet: call configure_model() or run it through a Trainer")
        return self.model
