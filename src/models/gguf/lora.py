"""A PEFT LoRA adapter as a GGUF file that llama.cpp adds to its model while it runs.

Hu et al. 2021, arXiv:2106.09685. llama.cpp scales each pair by alpha / rank with one alpha for the file; what PEFT
scales otherwise (rank-stabilised LoRA, Kalajdzievski 2023, arXiv:2312.03732; patterns of ranks and alphas) is put into
that alpha or into B. A pair for a query or key whose rows llama.cpp keeps in another order has B's rows in that order.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.gguf.architecture import Decoder
from src.models.load import check_adapter_folder
from src.models.weight_files import TensorFiles, as_float32

# Settings that change what an adapter computes beyond scale * B A x, by what they are when they do not
PLAIN = {
    "peft_type": ("LORA",),
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "modules_to_save": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "layer_replication": ([],),
    "alora_invocation_tokens": ([],),
    "use_qalora": (False,),
    "use_bdlora": ([], {}, False),
    "arrow_config": ([], {}),
    "kasa_config": ([], {}),
    "monteclora_config": ([], {}),
    "velora_config": ([], {}),
}
# Ways to begin that leave the base model's weights alone; the others move a part of them into the adapter
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
PAIR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")


def write_adapter(adapter_path: str | Path, base: dict[str, Any], file: Path) -> None:
    """Write the adapter of a PEFT folder for the model whose ``config.json`` is `base`.

    Raises:
        UserError: the adapter is of a kind that llama.cpp does not have, or does not fit the model.
    """
    import gguf

    folder = Path(adapter_path)
    check_adapter_folder(folder)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _check_plain(folder, settings)
    decoder = Decoder(base, "the model")
    scaling = _scaling(settings, settings["r"], settings["lora_alpha"])
    alpha = scaling * settings["r"]
    if not alpha:
        raise UserError(f"adapter '{folder}' has lora_alpha=0 and changes nothing: leave it out")
    writer = gguf.GGUFWriter(file, decoder.architecture.name)
    writer.add_type("adapter")
    writer.add_name(folder.resolve().name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for module, (a, b) in _pairs(folder, decoder, settings).items():
        rank = a.shape[0]
        own = _scaling(settings, rank, _pattern(settings, "alpha_pattern", module, settings["lora_alpha"]))
        name = decoder.tensor_name(f"{module}.weight")
        b = decoder.arrange(f"{module}.weight", b * np.float32(own * rank / alpha))
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a, dtype=np.float32))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_plain(folder: Path, settings: dict[str, Any]) -> None:
    for key, plain in PLAIN.items():
        value = settings.get(key)
        if value is not None and value not in plain:
            raise UserError(
                f"adapter '{folder}' has {key}={value}, which llama.cpp's adapters can't do: merge it into its model "
                "first (scripts/export.py adapter_path=… format=gguf)"
            )
    if (start := settings.get("init_lora_weights")) not in PLAIN_STARTS:
        raise UserError(
            f"adapter '{folder}' began with init_lora_weights={start}, which changes the base model too: merge it "
            "first (scripts/export.py adapter_path=… format=gguf)"
        )


def _pairs(folder: Path, decoder: Decoder, settings: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A ``[rank, in]`` and B ``[out, rank]`` of each module, checked against the model's shapes."""
    files = TensorFiles(_weights(folder))
    halves: dict[str, dict[str, np.ndarray]] = {}
    for stored in files.tensors.values():
        if stored.name.endswith("lm_head.base_layer.weight") and stored.shape == (decoder.vocab_size, decoder.hidden):
            continue  # PEFT keeps a copy of the model's own output layer beside its pair
        found = PAIR.fullmatch(stored.name)
        if not found or "embed_tokens" in stored.name or (decoder.tied and "lm_head" in stored.name):
            raise UserError(
                f"adapter '{folder}' holds {stored.name}, which llama.cpp's adapters can't do (only pairs for linear "
                "layers): merge it into its model first (scripts/export.py adapter_path=… format=gguf)"
            )
        values = as_float32(files.read(stored.name), stored.dtype)
        halves.setdefault(found["module"], {})[found["half"]] = values
    if not halves:
        raise UserError(f"adapter '{folder}' holds no weights: tune it again")
    for module, pair in halves.items():
        shape = _shape(decoder, module)
        a, b = pair.get("A"), pair.get("B")
        if any(half is not None and not np.isfinite(half).all() for half in (a, b)):
            raise UserError(
                f"adapter '{folder}' holds values at {module} that are not finite numbers: its tuning went wrong, so "
                "give an earlier checkpoint of it"
            )
        if a is None or b is None or a.shape[0] != b.shape[1] or shape not in (None, (b.shape[0], a.shape[1])):
            raise UserError(
                f"adapter '{folder}' does not fit the model at {module}: it is for another model "
                f"({settings.get('base_model_name_or_path')})"
            )
    return {module: (pair["A"], pair["B"]) for module, pair in halves.items()}


def _shape(decoder: Decoder, module: str) -> tuple[int, int] | None:
    """Output and input size of a linear layer of the model; None for one that config.json does not tell."""
    inner = decoder.config.get("intermediate_size")
    attention, keys = decoder.heads * decoder.head_dim, decoder.key_value_heads * decoder.head_dim
    sizes = {
        "q_proj": (attention, decoder.hidden),
        "k_proj": (keys, decoder.hidden),
        "v_proj": (keys, decoder.hidden),
        "o_proj": (decoder.hidden, attention),
        "gate_proj": (inner, decoder.hidden),
        "up_proj": (inner, decoder.hidden),
        "down_proj": (decoder.hidden, inner),
        "lm_head": (decoder.vocab_size, decoder.hidden),
    }
    return sizes.get(module.rsplit(".", 1)[-1])  # type: ignore[return-value]


def _scaling(settings: dict[str, Any], rank: int, alpha: float) -> float:
    """What PEFT multiplies B A by."""
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank


def _pattern(settings: dict[str, Any], key: str, module: str, default: float) -> float:
    """PEFT's choice for a module out of a pattern: the first whose regular expression ends its name."""
    for pattern, value in (settings.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return float(default)


def _weights(folder: Path) -> Path:
    safetensors = folder / "adapter_model.safetensors"
    return safetensors if safetensors.is_file() else folder / "adapter_model.bin"
