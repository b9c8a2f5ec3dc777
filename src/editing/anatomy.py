"""Where the parts of a decoder are, found from the model itself: no file for each family, no test of its name.

A decoder is a list of equal layers that add to a residual stream of ``hidden_size``. What methods edit is the last
matrix of a layer's MLP, ``down_proj`` in Llama: its input is the *key* ``[intermediate_size]``, its output is added to
the stream. Families write that matrix as ``nn.Linear`` (``[out, in]``) or as GPT-2's ``Conv1D`` (``[in, out]``);
`Anatomy.weight` gives both as ``[out, in]``.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.errors import UserError


@dataclass(frozen=True)
class Anatomy:
    """Names of modules of one model.

    layers: the list of decoder layers, such as ``model.layers``.
    count: of them.
    mlp, attention: within a layer.
    mlp_out, attention_out: within a layer, the matrix that writes to the residual stream.
    norm: after the last layer; empty where there is none.
    hidden_size: of the residual stream.
    key_size: of the input of ``mlp_out``.
    """

    layers: str
    count: int
    mlp: str
    attention: str
    mlp_out: str
    attention_out: str
    norm: str
    hidden_size: int
    key_size: int

    def layer(self, number: int) -> str:
        """Name of a layer, counted from 0."""
        if not 0 <= number < self.count:
            raise UserError(f"layer {number} does not exist: the model has {self.count}, 0 to {self.count - 1}")
        return f"{self.layers}.{number}"

    def parameter(self, number: int, part: str | None = None) -> str:
        """Name of the weight of a layer's part, the MLP's last matrix by default."""
        return f"{self.layer(number)}.{part or self.mlp_out}.weight"

    def weight(self, model: nn.Module, number: int, part: str | None = None) -> Tensor:
        """That weight as ``[out, in]``, a view of the parameter's memory."""
        module = model.get_submodule(f"{self.layer(number)}.{part or self.mlp_out}")
        return module.weight.T if isinstance(module, Conv1D) else module.weight  # type: ignore[return-value]

    def at(self, depth: float) -> int:
        """The layer at a relative depth, from 0 to 1."""
        return min(self.count - 1, round(depth * self.count))


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """The parts of a model.

    Raises:
        UserError: it is no decoder of equal layers, has experts instead of one MLP, or weights of 4 or 8 bits.
    """
    name = type(model).__name__
    layers_name, layers = _decoder_layers(model, name)
    hidden_size = int(model.config.get_text_config().hidden_size)
    layer = layers[0]
    attention = next((child for child, module in layer.named_children() if _attends(module)), None)
    if attention is None:
        raise UserError(f"{name} can't be edited: no attention was found in its layers")
    matrices = {path: module for path, module in layer.named_modules() if _is_matrix(module)}
    attention_out = _last_writer(matrices, hidden_size, lambda path: _inside(path, attention))
    mlp_out = _last_writer(matrices, hidden_size, lambda path: not _inside(path, attention))
    if attention_out is None or mlp_out is None:
        raise UserError(
            f"{name} can't be edited: its layers have no plain matrices that write to the residual stream of "
            f"{hidden_size} numbers (experts, or weights of 4 or 8 bits?); load it with quantization=none"
        )
    if ".experts." in f".{mlp_out}":
        raise UserError(f"{name} can't be edited: each of its layers has several experts in place of one MLP")
    shapes = {tuple(each.get_submodule(mlp_out).weight.shape) for each in layers}
    if len(shapes) > 1:
        raise UserError(f"{name} can't be edited: its layers differ in shape, {sorted(shapes)}")
    return Anatomy(
        layers=layers_name,
        count=len(layers),
        mlp=mlp_out.partition(".")[0],
        attention=attention,
        mlp_out=mlp_out,
        attention_out=attention_out,
        norm=_final_norm(model, layers_name, hidden_size),
        hidden_size=hidden_size,
        key_size=_sizes(matrices[mlp_out])[0],
    )


def _decoder_layers(model: nn.Module, name: str) -> tuple[str, Any]:
    """The longest list of modules of one class; the outermost of several as long."""
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(each) for each in module}) == 1
    ]
    lists = [(path, module) for path, module in lists if any(_attends(child) for child in module[0].children())]
    if not lists:
        raise UserError(f"{name} can't be edited: it has no list of equal decoder layers")
    return max(lists, key=lambda found: (len(found[1]), -len(found[0])))


def _attends(module: nn.Module) -> bool:
    return "attention_mask" in inspect.signature(module.forward).parameters


def _is_matrix(module: nn.Module) -> bool:
    plain = type(module) is nn.Linear or isinstance(module, Conv1D)
    return plain and torch.is_floating_point(module.weight)  # type: ignore[arg-type]


def _sizes(module: Any) -> tuple[int, int]:
    """Sizes of input and output."""
    first, second = module.weight.shape
    return (first, second) if isinstance(module, Conv1D) else (second, first)


def _inside(path: str, child: str) -> bool:
    return path == child or path.startswith(child + ".")


def _last_writer(matrices: dict[str, nn.Module], hidden_size: int, wanted: Any) -> str | None:
    """The last matrix, in the order of the layer's definition, that gives ``hidden_size`` numbers."""
    found = [path for path, each in matrices.items() if wanted(path) and _sizes(each)[1] == hidden_size]
    return found[-1] if found else None


def _final_norm(model: nn.Module, layers: str, hidden_size: int) -> str:
    parent = layers.rpartition(".")[0]
    names = [
        name
        for name, child in model.get_submodule(parent).named_children()
        if getattr(getattr(child, "weight", None), "shape", None) == (hidden_size,)
    ]
    return f"{parent}.{names[-1]}".lstrip(".") if names else ""
