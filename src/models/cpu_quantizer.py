"""Lets ``from_pretrained`` turn matrices into `src.models.cpu_linear` layers one by one, as it reads them.

So a model takes no more memory on its way than it does in the end, but for one matrix: 13 billion parameters load on a
machine that could never hold them in 16 bits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from src.errors import UserError
from src.models.cpu_linear import GROUP, Int4Linear, Int8Linear

logger = logging.getLogger(__name__)

METHOD = "cpu-integers"
MENTIONED_SHARE = 0.01


@register_quantization_config(METHOD)
@dataclass
class CpuQuantization(QuantizationConfigMixin):
    """``bits``: 8 or 4, of the matrices of decoder layers. The head has 8."""

    bits: int = 8
    quant_method: Any = METHOD


@register_quantizer(METHOD)
class CpuQuantizer(HfQuantizer):
    """What transformers asks while it loads a model."""

    quantization_config: CpuQuantization

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        head, bits = model.get_output_embeddings(), self.quantization_config.bits
        self.weights: set[str] = set()
        taken = all_of_them = 0
        for name, module in model.named_modules():
            if module is head or isinstance(module, nn.Embedding):
                continue
            matrices = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
            all_of_them += sum(matrix.numel() for matrix in matrices)
            if type(module) is nn.Linear and (bits == 8 or Int4Linear.fits(module.weight)):
                self.weights.add(f"{name}.weight")
                taken += module.weight.numel()
        if not taken:
            raise UserError(
                f"quantization={bits}bit finds no matrix in {type(model).__name__} that it can take (plain linear "
                f"layers{'' if bits == 8 else f' of a multiple of 16 by one of {GROUP}'}): set quantization=none"
            )
        if (left := 1 - taken / all_of_them) > MENTIONED_SHARE:
            logger.warning("quantization=%dbit leaves %.0f %% of the layers' weights as they are", bits, 100 * left)
        return model

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.weights

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self.quantization_config.bits)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        head = model.get_output_embeddings()
        if type(head) is nn.Linear:
            model.set_output_embeddings(Int8Linear(head.weight, head.bias))
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _Quantize(ConversionOps):
    """Puts a quantised layer in the place of the one whose weight has been read."""

    def __init__(self, bits: int):
        self.bits = bits

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, list[torch.Tensor]]:
        model: PreTrainedModel = kwargs["model"]
        made: dict[str, list[torch.Tensor]] = {}
        for name, value in input_dict.items():
            path, _, _ = name.rpartition(".")
            weight = value[0] if isinstance(value, list) else value
            before: Any = model.get_submodule(path)
            layer = (Int8Linear if self.bits == 8 else Int4Linear)(weight, before.bias)
            model.set_submodule(path, layer)
            made[name] = [layer.weight]
        return made
