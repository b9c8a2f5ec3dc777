"""From the settings of a command to an engine: device, precision, template, and whether the model talks."""

import torch
from transformers.utils import logging as transformers_logging

from src.errors import UserError
from src.generation.transformers_engine import TransformersEngine
from src.models.devices import cpu_has_bf16, gpu_has_bf16
from src.models.load import DTYPES, load_for_generation
from src.models.spec import ModelSpec
from src.models.templates import Template, load_template


def load_engine(
    spec: ModelSpec,
    adapter_path: str | None = None,
    template: str | None = "auto",
    chat: bool | str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int = 8,
    stream: bool = False,
) -> tuple[TransformersEngine, bool]:
    """Load a model for generation; returns the engine and whether prompts go through a template.

    ``chat="auto"`` is yes where a template was named, the zoo names one for the model, or the tokenizer of a model with
    learned weights carries one. Raises `UserError` where chat is asked for and there is no template.
    """
    if chat not in ("auto", True, False):
        raise UserError(f"chat={chat} is not known: set auto, true or false")
    where = choose_device(device)
    transformers_logging.disable_progress_bar()
    model, tokenizer = load_for_generation(spec, adapter_path, dtype=choose_dtype(dtype, where), device=where)
    chosen: Template | None = None
    if template == "auto":
        if spec.template is not None or (tokenizer.chat_template and (spec.config is None or chat is True)):
            chosen = load_template(spec.template, tokenizer)
    elif template is not None and template != "none":
        chosen = load_template(template, tokenizer)
    if chat is True and chosen is None:
        raise UserError(f"model '{spec.name}' has no chat template: set template=alpaca, llama2 or chatml")
    talks = chosen is not None and chat is not False
    return TransformersEngine(model, tokenizer, chosen if talks else None, batch_size, stream), talks


def choose_device(device: str) -> str:
    """``auto`` is cuda, else mps, else cpu; anything else must be there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise UserError(f"device={device} is not known: set auto, cpu, cuda or mps")
    if not there[kind]:
        raise UserError(f"device={device} is not on this machine: set device=auto or cpu")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """``auto`` is bfloat16 where the hardware computes with it, else float32."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UserError(f"dtype={dtype} is not known: set auto, {', '.join(DTYPES)}")
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if gpu_has_bf16() else "float16"
    return "bfloat16" if device == "cpu" and cpu_has_bf16() else "float32"
