"""From a model's description to a model and a tokenizer in memory.

torch and transformers are imported when a function is called, so that commands which only look stay quick.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.models.download import resolve, resolve_tokenizer
from src.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DTYPES = ("float32", "bfloat16", "float16")


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerFast:
    """The model's tokenizer, with a pad token: its own, else the unknown token, else the end token."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(resolve_tokenizer(spec))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(
    spec: ModelSpec,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    from_scratch: bool = False,
    device: str | torch.device | None = None,
) -> PreTrainedModel:
    """The model with its weights, or with random ones for a random model and where `from_scratch` says so.

    ``config.use_cache`` stays as the checkpoint has it: training turns it off. Random weights follow torch's seed.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not known: expected one of {', '.join(DTYPES)}")
    folder = resolve(spec)
    torch_dtype = getattr(torch, dtype)
    if from_scratch or spec.kind == "config":
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype, attn_implementation=attn_implementation)
        model.config._name_or_path = str(folder)  # what an adapter names as its base
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype, attn_implementation=attn_implementation)
    return model.to(device) if device is not None else model


def load_for_generation(
    spec: ModelSpec,
    adapter_path: str | Path | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model, with a PEFT adapter on it if given, in evaluation mode, and a tokenizer that pads on the left.

    Raises `UserError` when the adapter folder is not one or was made for a model of another shape.
    """
    if adapter_path is not None:
        check_adapter_folder(adapter_path)
    tokenizer = load_tokenizer(spec)
    tokenizer.padding_side = "left"
    model = load_model(spec, dtype=dtype, device=device)
    if adapter_path is not None:
        model = attach_adapter(model, adapter_path)
    model.config.use_cache = True
    model.generation_config.use_cache = True
    return model.eval(), tokenizer


def attach_adapter(model: PreTrainedModel, adapter_path: str | Path) -> PreTrainedModel:
    """`model` as a ``PeftModel`` with the adapter of a PEFT folder."""
    from peft import PeftModel

    base = check_adapter_folder(adapter_path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft's look at transformers 5
            adapted: Any = PeftModel.from_pretrained(model, str(adapter_path))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"adapter '{adapter_path}' does not fit model '{model.config._name_or_path}' "
            f"({str(error).splitlines()[0]}): it was made for '{base}'"
        ) from error
    return adapted


def check_adapter_folder(adapter_path: str | Path) -> str:
    """The base model a PEFT folder names. Raises `UserError` when it is not a PEFT folder."""
    folder = Path(adapter_path)
    config, weights = folder / "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
    if not config.is_file() or not any((folder / name).is_file() for name in weights):
        raise UserError(
            f"adapter_path '{adapter_path}' is not a PEFT folder: expected adapter_config.json and {weights[0]} in it, "
            "as a tuning run exports them"
        )
    return str(json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path"))
