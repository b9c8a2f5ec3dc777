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
        UserError: the layers of one name stayed as they were.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, MergedModules] = {}
    for name, layer in peft_model.named_modules():
        weight = getattr(layer.get_base_layer(), "weight", None) if isinstance(layer, BaseTunerLayer) else None
        if weight is None:
            continue
        before = weight.detach().clone()
        layer.merge(safe_merge=True)
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
        return peft_model.merge_and_unload(safe_merge=True), found


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
