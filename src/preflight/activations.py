"""What a forward pass keeps for the backward pass, byte by byte.

The method is that of Korthikanti et al. 2022, arXiv:2205.05198 (a layer of GPT keeps ``34 s b h + 5 a s² b`` bytes);
the terms are those of Llama as transformers 5 computes it with torch 2: RMSNorm keeps its float32 input and the
normalised value, SwiGLU keeps four tensors of the intermediate size, RoPE keeps no copy of its own, scaled dot-product
attention keeps queries, keys, values, its output and a logarithm a row, but no scores; under autocast each linear layer
keeps a 16-bit copy of its own input. `benchmarks/memory.py` and the tests compare it with what PyTorch's saved-tensor
hooks see.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.models.architecture import Architecture
from src.preflight.plan import Plan

FLOAT32 = 4
ATTENTION_INPUTS, MLP_INPUTS = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Activations:
    """Bytes on one device for one micro-batch.

    kept: what all layers and the last norm keep until the backward pass.
    weight_copies: 16-bit copies of float32 weights that autocast keeps; part of `loss_peak` and `backward_peak`.
    logits: the most that logits, their softmax and their gradient take at once.
    loss_peak: everything there while the loss is computed.
    backward_peak: everything there while the last layer is computed again and differentiated.
    """

    kept: int
    weight_copies: int
    logits: int
    loss_peak: int
    backward_peak: int

    @property
    def peak(self) -> int:
        return max(self.loss_peak, self.backward_peak)


def estimate_activations(shape: Architecture, plan: Plan) -> Activations:
    """Peak of activations of one device.

    Two moments compete: the loss, when all layers are kept and the logits are largest, and the backward pass of the
    last layer, when its activations are there again besides their gradients.
    """
    layer, boundary = layer_bytes(shape, plan), layer_input_bytes(shape, plan)
    every, selective = plan.checkpointing.every, plan.checkpointing.selective
    checkpointed = -(-shape.layers // every) if every else 0  # the first, and each Nth after it
    kept_of_checkpointed = boundary + (selective_layer_bytes(shape, plan) if selective else 0)
    kept = outer_bytes(shape, plan) + (shape.layers - checkpointed) * layer + checkpointed * kept_of_checkpointed
    copies_kept, copies_forward = _weight_copies(shape, plan, shape.layers - checkpointed)
    logits, head = logits_bytes(shape, plan), head_input_bytes(shape, plan)
    again = layer if every and (shape.layers - 1) % every == 0 else 0
    return Activations(
        kept=kept,
        weight_copies=copies_forward,
        logits=logits,
        loss_peak=kept + copies_forward + head + logits,
        backward_peak=kept + copies_kept + again + gradient_bytes(shape, plan),
    )


def layer_bytes(shape: Architecture, plan: Plan) -> int:
    """What one layer keeps: ``[batch, length, …]`` tensors, by the width of each."""
    a_token = _norms(shape, plan) + _linear_inputs(shape, plan) + _attention(shape, plan) + _mlp(shape, plan)
    return int(plan.tokens * a_token) + attention_square_bytes(shape, plan)


def attention_square_bytes(shape: Architecture, plan: Plan) -> int:
    """What grows with the square of the length: a mask a layer for packed rows, all scores with ``eager``."""
    pairs = plan.micro_batch * plan.length**2
    if plan.attention == "eager":
        return pairs * shape.heads * (FLOAT32 + (plan.compute_bytes if plan.compute_bytes < FLOAT32 else 0))
    return pairs * plan.compute_bytes if plan.attention == "sdpa" else 0


def selective_layer_bytes(shape: Architecture, plan: Plan) -> int:
    """What is kept of a layer where results of matrix products and attention are, and the rest is computed again."""
    queries, keys = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    products = 2 * queries + 2 * keys + 2 * shape.intermediate_size + 2 * shape.hidden_size
    return int(plan.tokens * (products * plan.compute_bytes + FLOAT32 * shape.heads))


def layer_input_bytes(shape: Architecture, plan: Plan) -> int:
    """The input of a layer, all that full checkpointing keeps of it."""
    return plan.tokens * shape.hidden_size * plan.residual_bytes


def outer_bytes(shape: Architecture, plan: Plan) -> int:
    """Token ids, positions, rotary angles, the boolean mask and what the last norm keeps."""
    a_token = 3 * 8 + 2 * shape.head_dim * plan.residual_bytes + _norm(shape, plan)
    mask = plan.micro_batch * plan.length**2 if plan.attention in {"sdpa", "eager"} else 0
    return int(plan.tokens * a_token) + mask


def head_input_bytes(shape: Architecture, plan: Plan) -> int:
    """Hidden states chosen for the head, what autocast makes of them, and their gradient where it is formed early."""
    widths = plan.residual_bytes + (plan.compute_bytes if plan.autocast and plan.residual_bytes == FLOAT32 else 0)
    gradient = 0 if plan.loss == "full" else plan.residual_bytes
    return plan.tokens * shape.hidden_size * (widths + gradient)


def logits_bytes(shape: Architecture, plan: Plan) -> int:
    """Logits at their most, with the gradient of a trained head where it is formed chunk by chunk.

    All at once they take three float32 tensors in the backward pass: log-softmax, its gradient and theirs. A chunk
    takes its logits, their softmax in float32 and a gradient in the type of the products; the head's gradient is summed
    in float32 and multiplied into a second one (`src.modules.fused_loss`).
    """
    if plan.loss == "full":
        return plan.tokens * shape.vocabulary * 3 * FLOAT32
    chunk = plan.loss_chunk
    if plan.loss == "liger":
        chunk = max(1, plan.tokens * shape.hidden_size // shape.vocabulary)
    widths, head_widths = FLOAT32 + plan.compute_bytes, 2 * FLOAT32
    if plan.compute_bytes < FLOAT32:
        head_widths += plan.compute_bytes  # a chunk's share of the head's gradient, before it is added
        widths += 0 if plan.on_gpu else FLOAT32  # the softmax of a CPU casts its input first
    head = 0 if plan.adapter is not None else head_widths * shape.embedding_parameters
    return min(plan.tokens, chunk) * shape.vocabulary * widths + head


def gradient_bytes(shape: Architecture, plan: Plan) -> int:
    """Gradients on the way through a layer's MLP: of its two products' factors, and of the residual stream."""
    return plan.tokens * (
        2 * shape.intermediate_size * plan.compute_bytes + 2 * shape.hidden_size * plan.residual_bytes
    )


def _norm(shape: Architecture, plan: Plan) -> float:
    """The float32 input, its inverse root mean square and, where the norm is trained, the normalised value."""
    normalised = plan.residual_bytes * shape.hidden_size if plan.adapter is None else 0
    return FLOAT32 * shape.hidden_size + FLOAT32 + normalised


def _norms(shape: Architecture, plan: Plan) -> float:
    return 2 * _norm(shape, plan)


def _linear_inputs(shape: Architecture, plan: Plan) -> float:
    """Inputs of the linear layers that nothing else keeps: those of the norms, and copies for adapters."""
    if plan.adapter is not None:
        return _adapter_inputs(shape, plan)
    copies = plan.autocast and plan.residual_bytes == FLOAT32  # each layer casts for itself
    times = len(ATTENTION_INPUTS) + len(MLP_INPUTS) if copies else 2
    # and the product of SwiGLU, which is the input of down_proj; that of o_proj is attention's own output
    return plan.compute_bytes * (times * shape.hidden_size + shape.intermediate_size)


def _adapter_inputs(shape: Architecture, plan: Plan) -> float:
    """What peft's adapters keep: an input for lora_A, its small output for lora_B, a mask where there is dropout."""
    assert plan.adapter is not None
    targets = [name for name in shape.linear_shapes if name in plan.adapter.target_modules]
    # peft casts the input for each adapter, which leaves a copy
    casts = plan.autocast or (plan.trained_bytes == FLOAT32 and plan.compute_bytes < FLOAT32)
    total = 0.0
    shared: set[str] = set()
    for name in targets:
        inputs, outputs = shape.linear_shapes[name]
        source = "attention" if name in ATTENTION_INPUTS else "mlp" if name in MLP_INPUTS else name
        kept_by_attention = name == "o_proj"
        if plan.adapter.dropout or casts:
            total += inputs * plan.compute_bytes
        elif source not in shared and not kept_by_attention:
            total += inputs * plan.compute_bytes
            shared.add(source)
        if plan.adapter.dropout:
            total += inputs * (1 if plan.on_gpu else plan.trained_bytes)
        total += plan.adapter.r * plan.compute_bytes
        if plan.adapter.use_dora:
            total += 2 * outputs * plan.compute_bytes
    return total


def _attention(shape: Architecture, plan: Plan) -> float:
    """Queries, keys and values after rotation, the output, and a float32 logarithm for each row and head.

    A dense mask makes transformers repeat keys and values for every query head.
    """
    queries, keys = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    if plan.attention in {"sdpa", "eager"}:
        keys = queries
    logarithm = FLOAT32 * shape.heads if plan.attention != "eager" else 0
    # the loop over segments on a CPU puts their outputs together in another tensor
    again = queries if plan.attention == "varlen" and not plan.on_gpu else 0
    return plan.compute_bytes * (2 * queries + 2 * keys + again) + logarithm


def _mlp(shape: Architecture, plan: Plan) -> float:
    """The gate before and after SiLU, and the other factor; their product counts as an input of a linear layer."""
    return 3 * shape.intermediate_size * plan.compute_bytes


def _weight_copies(shape: Architecture, plan: Plan, whole_layers: int) -> tuple[int, int]:
    """16-bit copies of float32 weights: those that layers keep for the backward pass, and all as the forward pass ends.

    Autocast caches copies of trained weights until the forward pass ends; a layer that is not computed again keeps its
    copies until then anyway.
    """
    if not plan.autocast or plan.weight_bytes < FLOAT32 or plan.quantization:
        return 0, 0
    kept = whole_layers * shape.layer_linear_parameters * plan.compute_bytes
    if plan.adapter is not None:
        return kept, kept + shape.embedding_parameters * plan.compute_bytes
    return kept, (shape.layers * shape.layer_linear_parameters + shape.embedding_parameters) * plan.compute_bytes
