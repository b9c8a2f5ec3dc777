"""Lets ``from_pretrained`` turn matrices into `src.models.cpu_linear` layers one by one, as it reads them.

So a model takes no more memory on its way than it does in the end, but for one matrix: 13 billion parameters load on a
machine that could never hold them in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from src.models.cpu_linear import Int4Linear, Int8Linear

METHOD = "cpu-integers"


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
        head = model.get_output_embeddings()
        self.weights = {
            f"{name}.weight"
            for name, module in model.named_modules()
            if type(module) is nn.Linear and module is not head and _takes(self.quantization_config.bits, module)
        }
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


def _takes(bits: int, module: nn.Linear) -> bool:
    return bits == 8 or Int4Linear.fits(module.weight)
