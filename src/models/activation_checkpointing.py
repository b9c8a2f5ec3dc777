"""Activation checkpointing: keep less of the forward pass and compute it again in the backward pass.

Chen et al. 2016 (arXiv:1604.06174) recompute whole layers. Korthikanti et al. 2022 (arXiv:2205.05198) keep what is
expensive and recompute what is cheap, which costs little time: here the results of matrix products and of attention are
kept, and norms, rotary embeddings, activation functions and casts are computed again.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from src.errors import UserError

_EXPENSIVE = (
    "aten.mm",
    "aten.addmm",
    "aten.bmm",
    "aten.baddbmm",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_fused_attention_overrideable",
    "torch_attn._varlen_attn",
    "flash_attn._flash_attn_varlen_forward",  # FlashAttention-2
    "flash_attn_3.fwd",  # FlashAttention-3
    "bitsandbytes.gemv_4bit",
    "flex_attention",
)


@dataclass(frozen=True)
class Checkpointing:
    """What of each decoder layer is computed again in the backward pass.

    Args:
        every: recompute each ``every``-th layer; 0: none.
        selective: keep the results of matrix products and attention.
    """

    every: int
    selective: bool = False

    @classmethod
    def parse(cls, setting: Any) -> "Checkpointing":
        """``none``, ``full``, ``selective`` or ``every_N``, which recomputes each N-th layer whole."""
        if setting in {"none", "full", "selective"}:
            return cls(every=0 if setting == "none" else 1, selective=setting == "selective")
        found = re.fullmatch(r"every_(\d+)", setting) if isinstance(setting, str) else None
        if found is None or int(found[1]) < 1:
            raise UserError(
                f"module.activation_checkpointing must be none, full, selective or every_N such as every_2, "
                f"found {setting!r}"
            )
        return cls(every=int(found[1]))

    def apply(self, model: nn.Module) -> None:
        """Switch it on for the decoder layers of a transformers model, in place.

        transformers runs the layers' ``forward`` through the function set here while the model is in training mode;
        hooks on a layer (ZeRO-3, FSDP2) stay outside and those on its parts run again.

        Raises:
            UserError: the model has no layers that can be recomputed.
        """
        if not self.every:
            return
        layers = decoder_layers(model)
        if not layers:
            raise UserError(
                f"{type(model).__name__} has no layers that can be recomputed: "
                "give module.activation_checkpointing=none"
            )
        settings: dict[str, Any] = {"use_reentrant": False}
        if self.selective:
            settings["context_fn"] = functools.partial(create_selective_checkpoint_contexts, keep_expensive)
        for index, layer in enumerate(layers):
            layer._gradient_checkpointing_func = functools.partial(checkpoint, **settings)
            layer.gradient_checkpointing = index % self.every == 0


def decoder_layers(model: nn.Module) -> list[Any]:
    """The layers of a transformers model that are alike, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def keep_expensive(context: Any, operation: Any, *arguments: Any, **more: Any) -> CheckpointPolicy:
    """The policy of ``selective``; what it keeps must not be changed in place afterwards."""
    return CheckpointPolicy.MUST_SAVE if _packet_name(operation) in _EXPENSIVE else CheckpointPolicy.PREFER_RECOMPUTE


@functools.cache
def _packet_name(operation: Any) -> str:
    if isinstance(operation, torch._ops.OpOverload):
        return f"{operation.namespace}.{operation.overloadpacket.__name__}"
    return str(getattr(operation, "__name__", operation))
