"""The shape of a Llama-type decoder, known before a single weight is there.

What a run needs in memory and time follows from a handful of numbers. They stand in the ``config`` of a random model,
in ``architecture`` of a hub model, in ``config.json`` of a local folder and in the header of a GGUF file; none of them
needs the weights or the network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.models.spec import ModelSpec, llama_parameters

# Decoders that are a Llama with at most biases or norms more.
_LLAMA_LIKE = {"llama", "mistral", "qwen2", "qwen3"}


@dataclass(frozen=True)
class Architecture:
    """A decoder of equal layers: RMSNorm, rotary attention with shared key-value heads, SwiGLU.

    other_parameters: biases and norms beyond Llama's, in all layers together.
    """

    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocabulary: int
    tied: bool = False
    context_length: int = 0
    other_parameters: int = 0

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Input and output features of each linear layer of one decoder layer, by Hugging Face's names."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, queries),
            "k_proj": (self.hidden_size, keys),
            "v_proj": (self.hidden_size, keys),
            "o_proj": (queries, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }

    @property
    def layer_linear_parameters(self) -> int:
        """Weights of the matrices of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.linear_shapes.values())

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer, its two norms included."""
        return self.layer_linear_parameters + 2 * self.hidden_size + self.other_parameters // self.layers

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding; an untied head has as many again."""
        return self.vocabulary * self.hidden_size

    @property
    def outer_parameters(self) -> int:
        """Everything outside the layers: embedding, head, last norm."""
        return self.embedding_parameters * (1 if self.tied else 2) + self.hidden_size

    @property
    def parameters(self) -> int:
        layers = self.layers * (self.layer_linear_parameters + 2 * self.hidden_size)
        return self.outer_parameters + layers + self.other_parameters

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str = "the model") -> Architecture:
        """From the values of a ``config.json``.

        Raises:
            UserError: not a decoder of this kind, or a value is missing.
        """
        kind = config.get("model_type", "llama")
        if kind not in _LLAMA_LIKE or not llama_parameters(config):
            needed = "vocab_size, hidden_size, num_hidden_layers, num_attention_heads and intermediate_size"
            raise UserError(
                f"the memory of {name} can't be estimated: its config is of type '{kind}' and has "
                f"{', '.join(sorted(config)[:6])}…; expected a Llama-type decoder ({', '.join(sorted(_LLAMA_LIKE))}) "
                f"with {needed}"
            )
        heads = config["num_attention_heads"]
        return cls(
            hidden_size=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate_size=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            context_length=int(config.get("max_position_embeddings") or 0),
            other_parameters=0 if kind in {"llama", "mistral"} else meta_parameters(config) - llama_parameters(config),
        )


def architecture_of(spec: ModelSpec) -> Architecture:
    """The shape of a model, without its weights and without the network.

    Raises:
        UserError: nothing here says it, or it is another shape than ``parameters`` says.
    """
    found = Architecture.from_config(_config(spec), spec.name)
    declared = spec.architecture is not None or spec.kind == "config"
    if declared and spec.parameters and spec.parameters != found.parameters:
        raise UserError(
            f"model '{spec.name}' has parameters: {spec.parameters} and its architecture makes {found.parameters}: "
            f"correct one of them in configs/model/{spec.name}.yaml"
        )
    return found


def meta_parameters(config: dict[str, Any]) -> int:
    """Parameters of a model that transformers builds from these values, without memory for any of them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config.items() if key not in {"model_type", "quantization_config"}}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.get("model_type", "llama"), **values))
    return sum(parameter.numel() for parameter in model.parameters())


def _config(spec: ModelSpec) -> dict[str, Any]:
    if spec.architecture is not None:
        return spec.architecture
    if spec.kind == "config":
        assert spec.config is not None
        return {**spec.config, "vocab_size": spec.config.get("vocab_size") or _vocabulary_of_tokenizer(spec)}
    if spec.kind == "folder":
        return _read_config(Path(spec.path or ""), spec.name)
    if spec.kind == "gguf":
        return _read_gguf(Path(spec.path or ""))
    from src.models.download import is_cached, resolve  # a hub model that was fetched before

    if is_cached(spec):
        return _read_config(resolve(spec), spec.name)
    raise UserError(
        f"nothing here says how large '{spec.name}' is: give model.architecture={{hidden_size: …, …}} as "
        "configs/model/llama2_13b.yaml has it, or fetch it with python scripts/download.py"
    )


def _vocabulary_of_tokenizer(spec: ModelSpec) -> int:
    from src.models.zoo import find_model

    if spec.tokenizer is None:
        raise UserError(f"model '{spec.name}' has no vocab_size in its config and no tokenizer: give one of them")
    return architecture_of(find_model(spec.tokenizer)).vocabulary


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"model '{name}' has no config.json in {folder}: expected a Hugging Face folder")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _read_gguf(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    from src.models.gguf.convert import llama_config, metadata

    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError) as error:
        raise UserError(f"'{file}' cannot be read as GGUF ({error}): download it again") from error
    kind = metadata(reader, "general.architecture")
    return llama_config(reader) if kind == "llama" else {"model_type": kind}
