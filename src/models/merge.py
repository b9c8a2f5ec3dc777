"""An adapter's change put into the weights of its model, with the proof that it is there.

Merging that silently does nothing has happened to people: another peft version, the wrong adapter, a type too coarse
for small changes. So each kind of layer must change, and the manifest says by how much and from what.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MANIFEST = "merge.json"


@dataclass
class MergedModules:
    """What merging did to the layers of one name, such as ``q_proj``.

    changed: tensors with another value somewhere. weights, changed_weights: numbers in all of them. largest_change:
    absolute, of one weight.
    """

    tensors: int = 0
    changed: int = 0
    weights: int = 0
    changed_weights: int = 0
    largest_change: float = 0.0


def merge(peft_model: Any, adapter_path: str | Path) -> tuple[PreTrainedModel, dict[str, MergedModules]]:
    """A ``PeftModel`` as a plain model, its adapter added to the weights, and what changed by name of the layer.

    Raises:
        UserError: the layers of one name stayed as they were, or weights come out that are no numbers.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    _part_tied_embeddings(peft_model)
    found: dict[str, MergedModules] = {}
    for name, layer in peft_model.named_modules():
        weight = getattr(layer.get_base_layer(), "weight", None) if isinstance(layer, BaseTunerLayer) else None
        if weight is None:
            continue
        before = weight.detach().clone()
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise UserError(
                f"adapter '{adapter_path}' makes weights of {name} that are not finite numbers: its tuning went wrong, "
                "so give an earlier checkpoint of it"
            ) from error
        difference = (layer.get_base_layer().weight.detach() - before).abs()
        change = float(difference.max())
        modules = found.setdefault(name.rsplit(".", 1)[-1], MergedModules())
        modules.tensors += 1
        modules.changed += change > 0
        modules.weights += difference.numel()
        modules.changed_weights += int((difference > 0).sum())
        modules.largest_change = max(modules.largest_change, change)
    unchanged = [name for name, modules in found.items() if not modules.changed]
    if unchanged or not found:
        kind = str(next(peft_model.parameters()).dtype).removeprefix("torch.")
        raise UserError(
            f"merging adapter '{adapter_path}' changes no weight of {', '.join(unchanged) or 'the model'}: it is "
            f"untrained, or its changes are too small for {kind} (give dtype=float32)"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*already.*merged.*")
        merged = peft_model.merge_and_unload(safe_merge=True)
    if merged.config.tie_word_embeddings and not _tied(merged):
        merged.config.tie_word_embeddings = False  # else a reader may leave the head out and take the embedding
    return merged, found


def _tied(model: Any) -> bool:
    """Whether embedding and head of a model, with or without adapters on them, are one tensor."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _part_tied_embeddings(peft_model: Any) -> None:
    """Give the head weights of its own where an adapter is on one of two tied layers, for it changes only that one."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = peft_model.get_base_model()
    head = model.get_output_embeddings()
    if _tied(model) and any(isinstance(layer, BaseTunerLayer) for layer in (head, model.get_input_embeddings())):
        plain: Any = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        plain.weight = torch.nn.Parameter(plain.weight.detach().clone(), requires_grad=False)


def merge_manifest(
    base: dict[str, Any], base_folder: Path, adapter_path: Path, merged: Path, modules: dict[str, MergedModules]
) -> dict[str, Any]:
    """What a merged model was made of. base: its ``name`` and ``source``. Files are named with their SHA-256."""
    config = json.loads((adapter_path / "adapter_config.json").read_text(encoding="utf-8"))
    return {
        "base": {**base, "files": _hashes(base_folder, "*.safetensors", "*.bin", "config.json")},
        "adapter": {
            "name": adapter_path.resolve().name,
            "made_for": config.get("base_model_name_or_path"),
            "files": _hashes(adapter_path, "adapter_config.json", "adapter_model.*"),
        },
        "merged": {"files": _hashes(merged, "*.safetensors", "config.json")},
        "modules": {name: asdict(one) for name, one in modules.items()},
        "largest_change": max(one.largest_change for one in modules.values()),
    }


def _hashes(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    hashes = {}
    for file in files:
        with file.open("rb") as stream:
            hashes[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
