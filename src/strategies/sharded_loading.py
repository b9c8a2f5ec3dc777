"""How a sharded model gets its weights without every process holding all of them.

Pretrained weights in safetensors: each process builds the model without weights and reads only its own rows of each
tensor, so nobody ever holds more than the pieces and one group of layers. Random weights, and files whose names are
not the model's: rank 0 builds the whole model in host memory, the others one without weights, and rank 0 hands out
parameter after parameter; it holds all weights until the last is handed out. Either way the weights are those that
one process would start with.
"""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.models.download import resolve
from src.models.load import without_weights
from src.models.spec import ModelSpec
from src.strategies.fsdp2 import FullyShard, base_model

Rows = Callable[[int, int], Tensor]  # rows start to end of a tensor on disk


def build_sharded(
    strategy: FullyShard,
    build: Callable[[], nn.Module],
    spec: ModelSpec,
    random: bool,
    depends_on_weights: bool = False,
) -> nn.Module:
    """The model that ``build`` makes, sharded, with the weights that one process would have.

    Args:
        build: makes the model by `load_model`, with adapters on it if wanted.
        random: the weights are not loaded from files.
        depends_on_weights: ``build`` computes something from the loaded weights, as DoRA does.
    """
    rank = strategy.global_rank
    files = {} if random or depends_on_weights else readable_rows(resolve(spec))
    random_state = torch.get_rng_state()
    with without_weights() if files or rank else nullcontext():
        model = build()
    if not all(_matches(files, name, parameter) for name, parameter in base_parameters(base_model(model))):
        files = {}
        if rank == 0:
            torch.set_rng_state(random_state)  # adapters start at random
            model = build()
    root = base_model(model)
    whole = {n: p.detach() for n, p in root.named_parameters() if rank == 0 and base_name(n) not in files}
    strategy.shard(root)
    with torch.no_grad():
        for name, parameter in root.named_parameters():
            if base_name(name) in files:
                _fill(parameter, files[base_name(name)][1])
            else:
                _hand_out(parameter, whole.pop(name, None), strategy.root_device)
    return model


def base_parameters(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the model itself, under the names they have without adapters."""
    for name, parameter in root.named_parameters():
        if "lora_" not in name:
            yield base_name(name), parameter


def base_name(name: str) -> str:
    """peft keeps an adapted layer as ``LAYER.base_layer``; the adapter's own names contain ``lora_``."""
    return name.replace(".base_layer.", ".")


def readable_rows(folder: Path) -> dict[str, tuple[tuple[int, ...], Rows]]:
    """Shape of each tensor in a model folder's safetensors, and what reads rows of it; empty without safetensors."""
    from safetensors import safe_open

    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [single.name] if single.is_file() else []
    found: dict[str, tuple[tuple[int, ...], Rows]] = {}
    for name in names:
        file: Any = safe_open(folder / name, framework="pt")  # mapped, not read
        for key in file.offset_keys():
            tensor = file.get_slice(key)
            found[key] = (tuple(tensor.get_shape()), functools.partial(_rows, tensor))
    return found


def _rows(tensor: Any, start: int, end: int) -> Tensor:
    rows: Tensor = tensor[start:end]
    return rows


def _matches(files: dict[str, tuple[tuple[int, ...], Rows]], name: str, parameter: Tensor) -> bool:
    return not files or (name in files and files[name][0] == tuple(parameter.shape))


def _fill(parameter: Any, read: Rows) -> None:
    """Copy this rank's rows into its piece."""
    local = parameter.to_local()
    if local.numel():
        mesh = parameter.device_mesh
        per_rank = -(-parameter.shape[0] // mesh.size(mesh.ndim - 1))  # as torch.chunk cuts
        start = per_rank * mesh.get_local_rank(mesh.ndim - 1)
        local.copy_(read(start, start + local.shape[0]))


def _hand_out(parameter: Any, whole: Tensor | None, device: torch.device) -> None:
    """Rank 0 sends a whole parameter, and each rank keeps its rows."""
    if whole is None:
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    whole = whole.to(device).contiguous()
    torch.distributed.broadcast(whole, src=0)
    sent = whole
    _fill(parameter, lambda start, end: sent[start:end])
