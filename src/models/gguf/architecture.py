"""What llama.cpp wants to know of a decoder, and how it orders the rows of its weights.

Known are Llama and Mistral, Qwen 2 and 3, Gemma 1 to 3: one stack of attention and gated feed-forward blocks. A GGUF
file names tensors in its own way, keeps the two rows of Llama's query and key that rotate together next to each other
(Hugging Face keeps them half a head apart) and holds Gemma's norms as the factor they stand for, 1 + weight.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.weight_files import StoredTensor, WeightFiles, as_float32

logger = logging.getLogger(__name__)


class NotWrittenHereError(UserError):
    """A model that this project does not write as GGUF; llama.cpp's packaged converter may."""


@dataclass(frozen=True)
class Architecture:
    """name: llama.cpp's. pairs: whether query and key rows are stored in rotating pairs. norm_shift: added to norms."""

    name: str
    pairs: bool = False
    norm_shift: float = 0.0


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", pairs=True),
    "MistralForCausalLM": Architecture("llama", pairs=True),
    "Qwen2ForCausalLM": Architecture("qwen2"),
    "Qwen3ForCausalLM": Architecture("qwen3"),
    "GemmaForCausalLM": Architecture("gemma", norm_shift=1.0),
    "Gemma2ForCausalLM": Architecture("gemma2", norm_shift=1.0),
    "Gemma3ForCausalLM": Architecture("gemma3", norm_shift=1.0),
}
NOT_WEIGHTS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")  # what old checkpoints keep besides weights
SLIDING_PERIOD = {"gemma2": 2, "gemma3": 6}  # llama.cpp: each so-manieth block sees the whole context
LARGEST = {"gemma2": 46, "gemma3": 62}  # layers of the models whose attention is not scaled by the size of a head
# Gemma's configs leave out what their classes take for granted
SLIDES = {"head_dim": 256, "sliding_window": 4096, "query_pre_attn_scalar": 256}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": {**SLIDES, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3": {**SLIDES, "max_position_embeddings": 131072},
}


class Decoder:
    """One model's config seen with llama.cpp's eyes.

    Raises:
        UserError: the config lacks a number, or asks for something that llama.cpp would compute otherwise.
    """

    def __init__(self, config: dict[str, Any], where: str | Path) -> None:
        self.where = where
        self.class_name = (config.get("architectures") or ["none"])[0]
        if self.class_name not in ARCHITECTURES:
            raise NotWrittenHereError(
                f"architecture {self.class_name} of '{where}' is none of {', '.join(ARCHITECTURES)}"
            )
        self.architecture = ARCHITECTURES[self.class_name]
        self.config = {**DEFAULTS.get(self.architecture.name, {}), **config}
        self.layers = self._number("num_hidden_layers")
        self.hidden = self._number("hidden_size")
        self.heads = self._number("num_attention_heads")
        self.key_value_heads = self.config.get("num_key_value_heads") or self.heads
        self.head_dim = self.config.get("head_dim") or self.hidden // self.heads
        self.vocab_size = self._number("vocab_size")
        self.tied: bool = self.config.get("tie_word_embeddings", self.architecture.name.startswith("gemma"))
        self._names = _names(self.architecture.name, self.layers)
        self._check()

    def tensor_name(self, name: str) -> str | None:
        """llama.cpp's name of a tensor; None for one that a GGUF file does not hold. Raises `UserError` if unknown."""
        if name.endswith(NOT_WEIGHTS):
            return None
        if name == "lm_head.weight":  # which gguf's map lacks for Gemma
            return "output.weight"
        found: str | None = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise NotWrittenHereError(
                f"'{self.where}' holds a tensor {name} that a plain {self.class_name} does not have"
            )
        return found

    def arrange(self, name: str, values: np.ndarray) -> np.ndarray:
        """Rows of the tensor with Hugging Face's `name` in llama.cpp's order, Gemma's norms as factors."""
        if heads := self._paired_heads(name):
            return to_pairs(values, heads)
        if self.architecture.norm_shift and name.endswith("norm.weight"):
            return values + np.float32(self.architecture.norm_shift)
        return values

    def arrange_back(self, name: str, values: np.ndarray) -> np.ndarray:
        """The opposite of `arrange`."""
        if heads := self._paired_heads(name):
            return to_halves(values, heads)
        if self.architecture.norm_shift and name.endswith("norm.weight"):
            return values - np.float32(self.architecture.norm_shift)
        return values

    def extra_tensors(self) -> dict[str, np.ndarray]:
        """What the file holds beyond the weights: Llama 3.1's factors of the rotary frequencies."""
        rope = self._rope()
        if rope.get("rope_type") != "llama3":
            return {}
        return {"rope_freqs.weight": llama3_factors(rope, self.head_dim)}

    def add_metadata(self, writer: Any) -> None:
        """Write the numbers of the network into an open GGUF file."""
        config, rope = self.config, self._rope()
        writer.add_block_count(self.layers)
        writer.add_context_length(self._number("max_position_embeddings"))
        writer.add_embedding_length(self.hidden)
        writer.add_feed_forward_length(self._number("intermediate_size"))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.key_value_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
        writer.add_vocab_size(self.vocab_size)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        self._add_rope_scaling(writer, rope)
        if self.architecture.name in SLIDING_PERIOD:
            writer.add_sliding_window(self._number("sliding_window"))
            for key, add in (
                ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
                ("final_logit_softcapping", writer.add_final_logit_softcapping),
            ):
                if config.get(key):
                    add(float(config[key]))
        if self.architecture.name == "gemma3":
            writer.add_rope_freq_base_swa(float(self._local_theta()))

    def _add_rope_scaling(self, writer: Any, rope: dict[str, Any]) -> None:
        import gguf

        kind = rope.get("rope_type", "default")
        if kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        elif kind == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            original = rope.get("original_max_position_embeddings") or self._number("max_position_embeddings")
            factor = float(rope.get("factor") or self._number("max_position_embeddings") / original)
            writer.add_rope_scaling_factor(factor)
            writer.add_rope_scaling_orig_ctx_len(int(original))
            writer.add_rope_scaling_attn_factors(yarn_attention(rope, factor) / yarn_attention({}, factor))
            for key, add in (
                ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
            ):
                if rope.get(key) is not None:
                    add(float(rope[key]))
        elif kind not in ("default", "llama3"):
            raise NotWrittenHereError(
                f"'{self.where}' scales its rotary frequencies by '{kind}', none of default, linear, yarn and llama3"
            )

    def _rope(self) -> dict[str, Any]:
        """Rotary settings in transformers 5's words, whichever version wrote the config."""
        config = self.config
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope = dict(rope.get("full_attention") or rope)
        rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
        default = 1_000_000.0 if self.architecture.name == "gemma3" else 10_000.0
        rope["rope_theta"] = rope.get("rope_theta") or config.get("rope_theta") or default
        return rope

    def _local_theta(self) -> float:
        parameters = self.config.get("rope_parameters") or {}
        local = parameters.get("sliding_attention") or {}
        return local.get("rope_theta") or self.config.get("rope_local_base_freq") or 10_000.0

    def _paired_heads(self, name: str) -> int:
        """Number of heads a query or key tensor is arranged by; 0 for others."""
        if not self.architecture.pairs:
            return 0
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            return self.heads
        return self.key_value_heads if name.endswith(("k_proj.weight", "k_proj.bias")) else 0

    def _number(self, key: str) -> int:
        value = self.config.get(key)
        if not isinstance(value, int):
            raise UserError(f"config.json of '{self.where}' has {key}={value}: expected a whole number")
        return value

    def _check(self) -> None:
        """Refuse what llama.cpp would compute otherwise."""
        config, name = self.config, self.architecture.name
        if quantization := (config.get("quantization_config") or {}).get("quant_method"):
            raise UserError(
                f"'{self.where}' holds weights quantised by {quantization}: give the model they were made from"
            )
        gemma = name.startswith("gemma")
        key = "hidden_activation" if name in SLIDING_PERIOD else "hidden_act"
        known = ["gelu_pytorch_tanh", "gelu_new"] if gemma else ["silu", "swish"]
        known += ["gelu"] if name == "gemma" else []  # which means the approximation in Gemma's first configs
        if (activation := config.get(key) or known[0]) not in known:
            raise UserError(
                f"'{self.where}' has {key}={activation}: llama.cpp computes {known[0]} in this architecture"
            )
        if self._rope().get("truncate") is False:
            raise UserError(f"'{self.where}' scales by YaRN with truncate=false, which llama.cpp has no setting for")
        if name in SLIDING_PERIOD:
            self._check_sliding_gemma()
        window = config.get("sliding_window")
        slides = name == "llama" or config.get("use_sliding_window", False)
        if name not in SLIDING_PERIOD and slides and window and window < self._number("max_position_embeddings"):
            logger.warning("llama.cpp ignores the sliding window of %d tokens that the model was trained with", window)

    def _check_sliding_gemma(self) -> None:
        """What llama.cpp has no setting for in Gemma 2 and 3: scale and cap of attention, order of sliding blocks."""
        config, name = self.config, self.architecture.name
        scalar, expected = config["query_pre_attn_scalar"], self.head_dim
        if self.layers == LARGEST[name]:
            expected = self.hidden // self.heads
        if scalar != expected:
            raise UserError(
                f"'{self.where}' scales attention by query_pre_attn_scalar={scalar}: llama.cpp takes {expected} for "
                f"{name} of {self.layers} layers and has no setting for it"
            )
        caps = {key: config.get(key) for key in ("attn_logit_softcapping", "final_logit_softcapping")}
        if (name == "gemma2" and not all(caps.values())) or (name == "gemma3" and caps["attn_logit_softcapping"]):
            stated = " and ".join(f"{key}={value}" for key, value in caps.items())
            raise UserError(
                f"'{self.where}' has {stated}: llama.cpp caps both in gemma2, and does not cap attention in gemma3"
            )
        period = SLIDING_PERIOD[name]
        stated_period = config.get("sliding_window_pattern") or period if name == "gemma3" else period
        if (config.get("layer_types") or self._kinds(stated_period)) != self._kinds(period):
            raise UserError(
                f"'{self.where}' has its own pattern of sliding attention: llama.cpp takes every {period}. block "
                "of this architecture to see the whole context"
            )

    def _kinds(self, period: int) -> list[str]:
        return ["full_attention" if (n + 1) % period == 0 else "sliding_attention" for n in range(self.layers)]


def tensors_of(decoder: Decoder, weights: WeightFiles) -> dict[str, StoredTensor]:
    """The stored tensor of each tensor that a GGUF file of the model holds, by llama.cpp's name.

    A head that is stored beside the embedding of a tied model is left out if it is the same. If it is another one, it
    counts, as it does for transformers.

    Raises:
        UserError: the head is another one, and llama.cpp has none in this architecture.
    """
    named = {decoder.tensor_name(name): tensor for name, tensor in weights.tensors.items()}
    found = {name: tensor for name, tensor in named.items() if name is not None}
    head, embedding = found.get("output.weight"), found.get("token_embd.weight")
    if head is None or embedding is None or not (decoder.tied or decoder.architecture.name.startswith("gemma")):
        return found
    one, other = (as_float32(weights.read(tensor.name), tensor.dtype) for tensor in (head, embedding))
    if np.array_equal(one, other):
        del found["output.weight"]
    elif decoder.architecture.name.startswith("gemma"):
        raise UserError(
            f"'{weights.folder}' has a head of its own ({head.name}): llama.cpp takes Gemma's embedding for it, so "
            "this model can't be written as GGUF"
        )
    return found


def yarn_attention(rope: dict[str, Any], factor: float) -> float:
    """What YaRN multiplies queries and keys by (Peng et al. 2023, arXiv:2309.00071), as transformers reads a config.

    llama.cpp does what an empty `rope` gives and multiplies that by the file's ``rope.scaling.attn_factor``.
    """

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(float(rope["mscale"])) / scale(float(rope["mscale_all_dim"]))
    return scale(1.0)


def to_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Hugging Face's two halves of each head to llama.cpp's neighbouring rows that rotate together."""
    rows = values.shape[0]
    halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def to_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """The opposite of `to_pairs`."""
    rows = values.shape[0]
    pairs = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """What Llama 3.1 divides each rotary frequency by, float32 ``[head_dim / 2]`` (Llama 3 herd, arXiv:2407.21783).

    Short wavelengths stay, long ones are stretched by ``factor``, and those between go over smoothly.
    """
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(rope["original_max_position_embeddings"])
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    share = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)  # of the frequency that stays
    return (1.0 / ((1.0 - share) / factor + share)).astype(np.float32)


def _names(architecture: str, layers: int) -> Any:
    """gguf's map from Hugging Face's tensor names to llama.cpp's."""
    import gguf

    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    return gguf.get_tensor_name_map(number, layers)
