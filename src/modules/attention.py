"""Attention over packed rows, where a token sees those before it in its own segment and no others.

transformers' ``sdpa`` and ``eager`` do that with a dense mask, ``[length, length]`` for each row: the work of a full
square, and on a GPU no flash kernel. The implementations here get the segments instead and do only their work
(FlashAttention-2's variable-length call, Dao 2023, arXiv:2307.08691). transformers would look for segments itself, but
it takes a batch of several rows for unpacked ones, and it makes the program wait for the GPU in each step.

A module that was loaded with one of them still generates: a call without segments is transformers' ``sdpa``.
"""

import importlib
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from src.datamodules.layout import with_segments
from src.errors import UserError

CHOICES = ("auto", "sdpa", "eager", "flex_attention", "varlen", "flash_attention_2", "flash_attention_3")
FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
"""Model types whose forward pass is known here: attention arguments reach each layer, logits are ``head(hidden)``."""
_PACKED = "packed_"  # transformers looks for packages of its own where a name has "flash_attention" in it
_REGISTERED = {"varlen": "packed_varlen", "flash_attention_2": "packed_fa2", "flash_attention_3": "packed_fa3"}
_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_INSTALL = {
    "flash_attention_2": "pip install flash-attn --no-build-isolation",
    "flash_attention_3": "build the folder hopper of https://github.com/Dao-AILab/flash-attention",
}
_CAPABILITY = {"flash_attention_2": (8, 0), "flash_attention_3": (9, 0), "varlen": (8, 0)}


def choose_attention(asked: str, config: Any, device: torch.device, sixteen_bit: bool, compiled: bool = False) -> str:
    """What a model is loaded with (``attn_implementation`` of transformers) for a setting of ours.

    Args:
        config: transformers' configuration of the model.
        asked: ``module.attn_implementation``. ``varlen`` is PyTorch's own variable-length flash kernel on a GPU and a
            loop over segments on the CPU; ``auto`` is the best that is installed and that the device can run.
        sixteen_bit: the arithmetic is in bfloat16 or float16.
        compiled: ``torch.compile`` is on: on the CPU ``auto`` then avoids the loop, which can't be compiled.

    Raises:
        UserError: what was asked for is not known, not installed or not for this device.
    """
    if asked not in CHOICES:
        raise UserError(f"module.attn_implementation must be one of {', '.join(CHOICES)}, found {asked!r}")
    if asked == "auto":
        best = ("flash_attention_3", "flash_attention_2", "varlen")
        asked = next((name for name in best if not _obstacle(name, config, device, sixteen_bit)), "sdpa")
        if device.type == "cpu" and compiled:
            asked = "sdpa"
    elif obstacle := _obstacle(asked, config, device, sixteen_bit):
        raise UserError(f"module.attn_implementation={asked} {obstacle}, or give module.attn_implementation=auto")
    return _REGISTERED.get(asked, asked)


def _obstacle(name: str, config: Any, device: torch.device, sixteen_bit: bool) -> str | None:
    """Why an implementation can't run here, and what to do."""
    if name == "flex_attention" and device.type == "cpu":
        return "has no backward pass on a CPU: give varlen or sdpa"
    if name not in _REGISTERED:
        return None
    if config.model_type not in FAMILIES:
        return f"is for {', '.join(sorted(FAMILIES))} and this model is {config.model_type}: give sdpa"
    if getattr(config, "attention_dropout", 0):
        return f"has no dropout and the model's configuration says attention_dropout={config.attention_dropout}"
    if name == "varlen" and device.type == "cpu":
        return None
    if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name]) is None:
        return f"needs the package {_PACKAGES[name]}: {_INSTALL[name]}"
    if device.type != "cuda":
        return f"runs on CUDA only and this run is on {device.type}: train on a GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY[name]:
        needed, found = (".".join(map(str, version)) for version in (_CAPABILITY[name], capability))
        return f"needs a GPU of compute capability {needed} and {torch.cuda.get_device_name(device)} has {found}"
    if not sixteen_bit:
        return "computes in 16 bits only: give trainer.precision=bf16-mixed"
    return None


def attention_arguments(decoder: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """What the decoder is called with beside ids and positions, so that attention gets the segments."""
    config: Any = decoder.config
    if not config._attn_implementation.startswith(_PACKED):
        return {}
    if "segment_starts" not in batch:
        batch = with_segments(batch)
    starts, longest = batch["segment_starts"], batch["longest_segment"]
    return {
        # transformers makes no mask where it is given one of four dimensions; nothing reads this one
        "attention_mask": batch["position_ids"].new_zeros((1, 1, 1, 1)),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _packed_attention(kernel: Any) -> Any:
    """A function of transformers' attention interface around a kernel for segments.

    ``kernel(query, key, value, starts, longest, scale, window)`` takes ``[tokens, heads, width]`` of each and returns
    the like.
    """

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        if cu_seq_lens_q is None or max_length_q is None:  # generation, with a cache
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
            )
        if torch.is_autocast_enabled(query.device.type):  # rotary embeddings leave queries and keys in float32
            dtype = torch.get_autocast_dtype(query.device.type)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        window = sliding_window if sliding_window is not None and sliding_window < max_length_q else None
        flat = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
        out = kernel(*flat, cu_seq_lens_q, max_length_q, scaling, window)
        return out.view(query.shape[0], query.shape[2], *out.shape[1:]), None

    return attention


def _torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
) -> Tensor:
    if not query.is_cuda:
        return _segment_loop(query, key, value, starts, scale, window)
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if window is None else window - 1
    out = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scale, window_size=(left, 0), enable_gqa=True
    )
    assert isinstance(out, Tensor)  # a pair only where asked for
    return out


@torch.compiler.disable
def _segment_loop(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Causal attention of one segment after the other: on a CPU a call costs nothing and the squares are small."""
    sizes = starts.diff().tolist()
    outs = []
    for q, k, v in zip(*(states.split(sizes) for states in (query, key, value)), strict=True):
        length, mask = len(q), None
        if window is not None and length > window:
            distance = torch.arange(length)[:, None] - torch.arange(length)
            mask = (distance >= 0) & (distance < window)
        q, k, v = (states.transpose(0, 1)[None] for states in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=True)
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def _flash(name: str) -> Any:
    def kernel(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
    ) -> Tensor:
        function = importlib.import_module(_PACKAGES[name]).flash_attn_varlen_func
        left = -1 if window is None else window - 1
        out = function(
            query,
            key,
            value,
            starts,
            starts,
            longest,
            longest,
            softmax_scale=scale,
            causal=True,
            window_size=(left, 0 if window else -1),
        )
        return out[0] if isinstance(out, tuple) else out

    return kernel


for _name, _registered in _REGISTERED.items():
    AttentionInterface.register(_registered, _packed_attention(_torch_varlen if _name == "varlen" else _flash(_name)))
    AttentionMaskInterface.register(_registered, sdpa_mask)
