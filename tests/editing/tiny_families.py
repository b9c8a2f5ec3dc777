"""Random decoders of a few thousand parameters, one for each family that is edited."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

COMMON = {"vocab_size": 320, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4}
LLAMA = {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 320, "n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 64}
NEOX = {**COMMON, "intermediate_size": 80, "rotary_pct": 0.5}
OPT = {**COMMON, "ffn_dim": 80, "word_embed_proj_dim": 32}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama_tied": ("LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", {**LLAMA, "head_dim": 16}),
    "mistral": ("MistralConfig", LLAMA),
    "gemma2": ("Gemma2Config", {**LLAMA, "head_dim": 8}),
    "phi3": ("Phi3Config", {**LLAMA, "pad_token_id": 0}),
    "gpt2": ("GPT2Config", GPT2),
    "gptj": ("GPTJConfig", {**GPT2, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "opt": ("OPTConfig", OPT),
    "square": ("LlamaConfig", {**LLAMA, "intermediate_size": 32}),
}
KEY_SIZES = {"gpt2": 128, "gptj": 128, "square": 32}  # others: 80


def tiny(family: str, **changes: Any) -> PreTrainedModel:
    """A model of a family, the same at each call."""
    name, settings = FAMILIES[family]
    torch.manual_seed(0)
    make: Callable[..., Any] = getattr(transformers, name)
    model = transformers.AutoModelForCausalLM.from_config(make(**settings | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    return model.eval()
