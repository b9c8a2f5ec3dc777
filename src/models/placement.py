"""Which part of a model goes on which device, and what each must hold: known before a weight is read.

The model is built without memory (parameters on the meta device) and cut into parts that stay whole: embedding, each
decoder layer, norm, head. They go onto the devices in order, GPUs first, then host memory, then disk. That is the rule
of accelerate's ``infer_auto_device_map``, but here the KV cache counts too: it lies where its layer is computed. What
lies in host memory beside a GPU, or on disk, is computed on the main device (the first GPU, else the CPU), which keeps
room for those caches and for the largest part that is brought in.

One GB is 10^9 bytes. Activations and the CUDA context, together about a gigabyte on each GPU, are not counted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from src.errors import UserError
from src.models.devices import free_gpu_bytes, free_host_bytes, visible_gpus
from src.models.quantized import head_bits, layer_bits
from src.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

GB = 10**9
FREE_SHARE = 0.9  # of what is free is used where nobody names an amount: activations and other programs need some
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Device = int | str  # the number of a GPU, "cpu", "mps" or "disk": the values of transformers' device_map


@dataclass(frozen=True)
class Allocation:
    """How much of each device a model and its KV cache may take, in GB (10^9 bytes).

    gpus: of each GPU in the order of their numbers; ``"auto"`` is what is free of each, ``()`` uses none, None is the
        one device that ``device=`` says.
    cpu_gb: of host memory; None is what is free where no GPU is used or ``gpus`` is ``"auto"``, else 0.
    disk_gb: of weights that may stay on disk and are read from there for each token.
    offload_folder: for weights on disk that can't be read where they are, because the file has another format.
    rows: sequences generated at once, beams counted; with ``context`` they give the size of the KV cache.
    context: tokens of a row, prompt and answer; 0 is all that the model can.

    Raises:
        UserError: an amount that is none.
    """

    gpus: Sequence[float] | Literal["auto"] | None = None
    cpu_gb: float | None = None
    disk_gb: float = 0.0
    offload_folder: str | None = None
    rows: int = 1
    context: int = 0

    def __post_init__(self) -> None:
        amounts: dict[str, Any] = {"disk_gb": self.disk_gb}
        if self.cpu_gb is not None:
            amounts["cpu_gb"] = self.cpu_gb
        if self.gpus is not None and self.gpus != "auto":
            if isinstance(self.gpus, str) or not isinstance(self.gpus, Sequence):
                raise UserError(f"allocate={self.gpus} is no list: give GB for each GPU such as [10,10,10], or auto")
            object.__setattr__(self, "gpus", tuple(self.gpus))
            amounts |= {f"allocate[{index}]": value for index, value in enumerate(self.gpus)}
        for name, value in amounts.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise UserError(f"{name} is {value!r}: give GB (10^9 bytes) as a number, such as 10 or 7.5")


@dataclass(frozen=True)
class Part:
    """A piece of a model that stays whole: its module's name, bytes of weights, bytes of its KV cache when full.

    tied_to: the part before it that holds its weights, or part of them; both go onto one device.
    """

    name: str
    weights: int
    cache: int = 0
    tied_to: str | None = None


@dataclass(frozen=True)
class Share:
    """What one device holds, in bytes; ``cache`` and ``brought_in`` also for what lies elsewhere, computed here."""

    device: Device
    limit: int
    parts: tuple[Part, ...]
    cache: int
    brought_in: int

    @property
    def weights(self) -> int:
        return sum(part.weights for part in self.parts)

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.brought_in


@dataclass(frozen=True)
class Placement:
    """Where each part of a model goes. ``str()`` is the estimate as a table."""

    model: str
    how: str
    shares: tuple[Share, ...]
    offload_folder: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def device_map(self) -> dict[str, Device]:
        """As transformers' ``from_pretrained`` takes it."""
        return {part.name: share.device for share in self.shares for part in share.parts}

    @property
    def devices(self) -> list[Device]:
        """Those that hold parts, the main one first."""
        return [share.device for share in self.shares if share.parts]

    @property
    def spills(self) -> bool:
        """Whether parts lie where they are not computed."""
        return "disk" in self.devices or ("cpu" in self.devices and len(self.devices) > 1)

    def __str__(self) -> str:
        rows = [["device", "limit", "weights", "KV cache", "brought in", "together", "parts"]]
        for share in self.shares:
            sizes = (share.limit, share.weights, share.cache, share.brought_in, share.total)
            rows.append([device_name(share.device), *map(gb, sizes), listed(part.name for part in share.parts)])
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = []
        for first, *sizes_text, parts in rows:
            cells = [cell.rjust(width) for cell, width in zip(sizes_text, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells, parts]))
        return "\n".join([f"{self.model}: {self.how}", *lines, *(f"note: {note}" for note in self.notes)])


def place(
    spec: ModelSpec, allocation: Allocation, dtype: str, quantization: str = "none", device: str = "cpu"
) -> Placement:
    """Put the parts of a model onto the devices that an allocation allows, before its weights are fetched or read.

    Args:
        device: the one device where ``allocation.gpus`` is None.

    Raises:
        UserError: more GPUs are named than are there, or the model doesn't fit; says how much is missing.
    """
    limits = device_limits(allocation, device)
    model = model_on_meta(spec)
    most = int(getattr(model.config, "max_position_embeddings", 0) or 2048)
    context = min(allocation.context or most, most)
    on_cpu = not any(isinstance(name, int) for name in limits)
    parts = parts_of(model, dtype, quantization, allocation.rows * context, on_cpu)
    how = (
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e9:.3f} billion parameters, {dtype}"
        f"{'' if quantization == 'none' else f', layers in {quantization}'}, {allocation.rows} × {context} tokens"
    )
    notes = []
    if isinstance(allocation.gpus, tuple) and 0 < len(allocation.gpus) < visible_gpus():
        notes.append(f"allocate= names {len(allocation.gpus)} of {visible_gpus()} GPUs: the others are not used")
    if allocation.gpus == "auto" and not visible_gpus():
        notes.append("no GPU is visible: allocate=auto uses host memory alone")
    shares = assign(parts, limits, spec.name)
    placement = Placement(spec.name, how, shares, allocation.offload_folder, tuple(notes))
    if placement.spills and quantization != "none":
        raise UserError(
            f"quantization={quantization} keeps all weights where they are computed, and {spec.name} would lie on "
            f"{' and '.join(map(device_name, placement.devices))}: allow more on the GPUs, or set quantization=none"
        )
    return placement


def device_limits(allocation: Allocation, device: str = "cpu") -> dict[Device, int]:
    """Bytes that may be used of each device, in the order in which they are filled.

    Raises:
        UserError: the GPUs named are not there.
    """
    gpus, there = allocation.gpus, visible_gpus()
    limits: dict[Device, int] = {}
    if gpus is None:
        if device.startswith("cuda"):
            index = int(device.partition(":")[2] or 0)
            limits[index] = int(free_gpu_bytes(index) * FREE_SHARE)
        elif device != "cpu":
            limits[device] = int(free_host_bytes() * FREE_SHARE)  # mps has no memory of its own
    elif gpus == "auto":
        limits |= {index: int(free_gpu_bytes(index) * FREE_SHARE) for index in range(there)}
    else:
        if len(gpus) > there:
            amounts = ",".join(f"{value:g}" for value in gpus)
            raise UserError(
                f"allocate=[{amounts}] names {len(gpus)} GPU{'s' if len(gpus) > 1 else ''} and this machine has {there}"
                f"{'' if there else ' that PyTorch can use'}: give one amount for each GPU that is there, "
                "allocate=auto for what is free, or allocate=[] with cpu_gb=… (and disk_gb=…) to run on the CPU"
            )
        limits |= {index: int(value * GB) for index, value in enumerate(gpus) if value > 0}
    if allocation.cpu_gb is not None:
        limits["cpu"] = int(allocation.cpu_gb * GB)
    elif not limits or gpus == "auto":
        limits["cpu"] = int(free_host_bytes() * FREE_SHARE)
    if allocation.disk_gb:
        limits["disk"] = int(allocation.disk_gb * GB)
    return limits


def assign(parts: Sequence[Part], limits: dict[Device, int], model: str = "the model") -> tuple[Share, ...]:
    """Fill the devices with parts in order; the first device of ``limits`` is the main one.

    Raises:
        UserError: a part has no place, with the numbers.
    """
    main = next(iter(limits))
    reserve = 0  # room on the main device for what is computed there and lies elsewhere; grows until it is enough
    while True:
        placed = _fill(parts, limits, main, reserve, model)
        away = [part for part in parts if placed[part.name] != main and not _computes(placed[part.name], main)]
        caches, largest = sum(part.cache for part in away), max((part.weights for part in away), default=0)
        if caches + largest <= reserve:
            break
        reserve = caches + largest
    shares = []
    for device, limit in limits.items():
        here = tuple(part for part in parts if placed[part.name] == device)
        own = sum(part.cache for part in here) if _computes(device, main) else 0
        at_main = (caches, largest) if device == main else (0, 0)
        shares.append(Share(device, limit, here, own + at_main[0], at_main[1]))
    return tuple(shares)


def _computes(device: Device, main: Device) -> bool:
    return device == main or isinstance(device, int)


def _fill(
    parts: Sequence[Part], limits: dict[Device, int], main: Device, reserve: int, model: str
) -> dict[str, Device]:
    """The device of each part. A device that was full once gets no smaller part later: parts stay in order."""
    left = {device: limit - (reserve if device == main else 0) for device, limit in limits.items()}
    order = list(limits)
    placed: dict[str, Device] = {}
    for number, part in enumerate(parts):
        if part.tied_to is not None:
            placed[part.name] = placed[part.tied_to]
            continue
        together = [part, *(other for other in parts if other.tied_to == part.name)]
        while order:
            size = sum(one.weights + (one.cache if _computes(order[0], main) else 0) for one in together)
            if size <= left[order[0]]:
                break
            order.pop(0)
        if not order or (number == 0 and order[0] != main):  # a model's inputs go to where its embedding is
            raise UserError(_too_large(parts, placed, limits, model, reserve))
        left[order[0]] -= size
        placed[part.name] = order[0]
    return placed


def _too_large(
    parts: Sequence[Part], placed: dict[str, Device], limits: dict[Device, int], model: str, reserve: int
) -> str:
    weights, cache = sum(part.weights for part in parts), sum(part.cache for part in parts)
    without = [part for part in parts if part.name not in placed and part.tied_to not in placed]
    allowed = ", ".join(f"{device_name(device)} {gb(limit)}" for device, limit in limits.items())
    brought = f", and {gb(reserve)} kept free for parts that are computed elsewhere than they lie" if reserve else ""
    return (
        f"{model} does not fit: it needs {gb(weights + cache)} ({gb(weights)} weights, {gb(cache)} KV cache){brought}, "
        f"and allowed are {allowed}; without a place: {listed(part.name for part in without)} "
        f"({gb(sum(part.weights + part.cache for part in without))}): allow more (allocate=, cpu_gb=, disk_gb=), or "
        "make it smaller (quantization=8bit or 4bit, batch_size=, context_length=)"
    )


def model_on_meta(spec: ModelSpec) -> PreTrainedModel:
    """The model without memory for its weights: by the architecture that the zoo states, else by ``config.json``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if spec.architecture is not None:
        values = {key: value for key, value in spec.architecture.items() if key != "model_type"}
        values = {"max_position_embeddings": spec.context_length or 2048, **values}
        config = AutoConfig.for_model(spec.architecture.get("model_type", "llama"), **values)
    else:
        from src.models.download import resolve

        config = copy.deepcopy(AutoConfig.from_pretrained(resolve(spec)))
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        del config.quantization_config
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    model.config.quantization_config = stored  # for `parts_of`
    return model


def parts_of(model: PreTrainedModel, dtype: str, quantization: str, tokens: int, on_cpu: bool = True) -> list[Part]:
    """The parts of a model on the meta device, in the order in which they are computed.

    Args:
        quantization: 8bit or 4bit of its layers when it is loaded, else none; ``on_cpu`` tells which kind.
        tokens: in the KV cache, over all rows.
    """
    from src.models.cpu_linear import Int4Linear

    blocks = set(model._no_split_modules or ())
    bits = layer_bits(quantization, on_cpu, getattr(model.config, "quantization_config", None))
    own_head = head_bits(quantization, on_cpu)
    cache = cache_bytes(model.config, dtype) * tokens
    owners: dict[int, str] = {}
    parts = []
    for name, module in _whole_modules("", model, blocks):
        is_block = type(module).__name__ in blocks
        tied = [owners[id(parameter)] for parameter in module.parameters() if id(parameter) in owners]
        size = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
        weights: list[Any] = [child.weight for child in module.modules() if _is_linear(child)]
        in_groups = is_block and on_cpu and quantization == "4bit"
        linear = {id(weight) for weight in weights if not in_groups or Int4Linear.fits(weight)}
        stored = bits if is_block else own_head if module is model.get_output_embeddings() else None
        for parameter in module.parameters():
            is_owner = owners.setdefault(id(parameter), name) == name
            if stored is not None and id(parameter) in linear:
                size += _bytes(parameter, stored)
            elif is_owner:
                size += _bytes(parameter, 8 * DTYPE_BYTES[dtype])
        parts.append(Part(name, size, cache if is_block else 0, tied[0] if tied else None))
    return parts


def cache_bytes(config: PretrainedConfig, dtype: str) -> int:
    """Bytes that one token takes in the KV cache of one layer."""
    text: Any = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * heads * head_dim * DTYPE_BYTES[dtype]


def _whole_modules(prefix: str, module: torch.nn.Module, blocks: set[str]) -> Iterator[tuple[str, torch.nn.Module]]:
    """Modules that stay whole: blocks, those with parameters of their own, those without children."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        own = next(child.parameters(recurse=False), None) is not None
        if type(child).__name__ in blocks or own or next(child.children(), None) is None:
            yield path, child
        else:
            yield from _whole_modules(f"{path}.", child, blocks)


def _is_linear(module: torch.nn.Module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)


def _bytes(parameter: torch.Tensor, bits: float) -> int:
    return math.ceil(parameter.numel() * bits / 8)


def device_name(device: Device) -> str:
    return f"GPU {device}" if isinstance(device, int) else {"cpu": "CPU", "disk": "disk"}.get(device, device)


def gb(size: float) -> str:
    """Bytes as people read them, in GB of 10^9 bytes."""
    return f"{size / GB:.2f} GB"


def listed(names: Iterable[str]) -> str:
    """Names of modules in short: ``embed_tokens, layers 0-13, norm``."""
    pairs = []
    for name in names:
        stem, _, last = name.removeprefix("model.").rpartition(".")
        pairs.append((stem, int(last)) if last.isdigit() else (name.removeprefix("model."), None))
    texts = []
    for stem, group in groupby(pairs, key=lambda pair: pair[0]):
        numbers = [number for _, number in group if number is not None]
        span = "" if not numbers else f" {numbers[0]}" if len(numbers) == 1 else f"s {numbers[0]}-{numbers[-1]}"
        texts.append(f"{stem.removesuffix('s') if numbers else stem}{span}")
    return ", ".join(texts) or "nothing"
