"""How much a forward pass really keeps for its backward pass, by PyTorch's saved-tensor hooks: to check estimates."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Saved:
    """A tensor in the graph; gone when the graph lets it go, so that what was kept only for a moment is not counted."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that the graph of ``forward()`` holds on to, parameters not counted and shared memory counted once."""
    alive: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        result = forward()  # its graph must live until it is counted
    of_model = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes() for one in alive}
    del result
    return sum(size for address, size in storages.items() if address not in of_model)
