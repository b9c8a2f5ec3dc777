"""The estimate of activations is what PyTorch keeps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from src.models.activation_checkpointing import Checkpointing
from src.models.architecture import Architecture
from src.modules.attention import choose_attention
from src.modules.fused_loss import LossKernel
from src.modules.loss import supervised_loss, with_targets
from src.preflight.activations import estimate_activations, head_input_bytes
from src.preflight.plan import AdapterPlan, Plan
from src.preflight.saved_tensors import saved_bytes

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPE = Architecture(
    hidden_size=64,
    layers=5,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    intermediate_size=160,
    vocabulary=500,
    tied=True,
)
PLAN = Plan(precision="32-true", micro_batch=3, length=64, attention="sdpa", loss="full", on_gpu=False)


def model_of(plan: Plan) -> nn.Module:
    config = LlamaConfig(
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.key_value_heads,
        intermediate_size=SHAPE.intermediate_size,
        vocab_size=SHAPE.vocabulary,
        tie_word_embeddings=SHAPE.tied,
        use_cache=False,
    )
    dtype = torch.bfloat16 if plan.precision == "bf16-true" else getattr(torch, plan.weights_dtype)
    device, sixteen_bit = torch.device("cpu"), plan.precision != "32-true"
    attention = choose_attention(plan.attention, config, device, sixteen_bit)
    model = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    Checkpointing.parse(plan.activation_checkpointing).apply(model)
    if plan.adapter is not None:
        model.enable_input_require_grads()
        adapter = LoraConfig(
            task_type="CAUSAL_LM",
            r=plan.adapter.r,
            lora_dropout=plan.adapter.dropout,
            target_modules=list(plan.adapter.target_modules),
        )
        return get_peft_model(model, adapter).train()
    return model.train()


def batch_of(plan: Plan) -> dict[str, Tensor]:
    ids = torch.randint(0, SHAPE.vocabulary, (plan.micro_batch, plan.length))
    positions = torch.arange(plan.length // 2).repeat(2)[None].repeat(plan.micro_batch, 1)
    return with_targets({"input_ids": ids, "labels": ids, "position_ids": positions})


def forward_of(plan: Plan, model: nn.Module) -> Callable[[], Tensor]:
    batch = batch_of(plan)
    kernel = LossKernel(plan.loss, plan.loss_chunk)

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.autocast):
            return supervised_loss(model, batch, kernel).total

    return forward


def kept_estimate(plan: Plan) -> int:
    """What the graph holds when the loss is there: layers, head input, log-softmax and autocast's copies.

    The boolean mask and the positions are there too, but not in the graph, and so are the rotary angles where every
    layer is computed again; a row's last token has no loss.
    """
    parts = estimate_activations(SHAPE, plan)
    copies = parts.weight_copies
    if copies and plan.checkpointing.every:  # those of layers that are computed again are made again
        again = -(-SHAPE.layers // plan.checkpointing.every)
        copies -= again * SHAPE.layer_linear_parameters * plan.compute_bytes * (plan.adapter is None)
    without_loss = plan.micro_batch * SHAPE.vocabulary * 4
    elsewhere = without_loss + plan.tokens * 16
    if plan.attention != "varlen":
        elsewhere += plan.micro_batch * plan.length**2
    if plan.checkpointing.every == 1:
        elsewhere += plan.tokens * 2 * SHAPE.head_dim * plan.residual_bytes
    head = head_input_bytes(SHAPE, plan) if plan.adapter is None else 0  # a frozen head needs no input
    if plan.autocast and plan.adapter is None:
        head -= plan.tokens * SHAPE.hidden_size * plan.residual_bytes  # only its 16-bit copy is kept
    return parts.kept + copies + head + plan.tokens * SHAPE.vocabulary * 4 - elsewhere


@pytest.mark.parametrize("checkpointing", ["none", "full", "every_2"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
def test_kept_activations_are_those_of_pytorch(precision: str, checkpointing: str, attention: str) -> None:
    plan = replace(PLAN, precision=precision, activation_checkpointing=checkpointing, attention=attention)
    model = model_of(plan)
    assert kept_estimate(plan) == pytest.approx(saved_bytes(model, forward_of(plan, model)), rel=0.02)


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("precision", "weights_dtype"), [("32-true", "float32"), ("bf16-mixed", "bfloat16"), ("bf16-mixed", "float32")]
)
def test_kept_activations_of_an_adapter_are_those_of_pytorch(
    precision: str, weights_dtype: str, dropout: float, checkpointing: str
) -> None:
    adapter = AdapterPlan(4, TARGETS, dropout)
    plan = replace(
        PLAN,
        precision=precision,
        weights_dtype=weights_dtype,
        activation_checkpointing=checkpointing,
        adapter=adapter,
    )
    model = model_of(plan)
    assert kept_estimate(plan) == pytest.approx(saved_bytes(model, forward_of(plan, model)), rel=0.06)


def test_an_adapter_of_two_modules_keeps_less() -> None:
    plan = replace(PLAN, adapter=AdapterPlan(4, ("q_proj", "v_proj"), 0.1))
    model = model_of(plan)
    assert kept_estimate(plan) == pytest.approx(saved_bytes(model, forward_of(plan, model)), rel=0.05)
    assert kept_estimate(plan) < kept_estimate(replace(plan, adapter=AdapterPlan(4, TARGETS, 0.1)))


def test_fewer_activations_are_kept_the_more_is_computed_again() -> None:
    kept = [
        estimate_activations(SHAPE, replace(PLAN, activation_checkpointing=setting)).kept
        for setting in ("none", "selective", "every_2", "full")
    ]
    assert kept[0] > kept[1] > kept[3] and kept[0] > kept[2] > kept[3]


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_selective_checkpointing_keeps_what_pytorch_keeps(precision: str) -> None:
    """Its caches are no saved tensors, so the kept outputs are counted as they are made."""
    plan = replace(PLAN, precision=precision, activation_checkpointing="selective")
    kept = (
        estimate_activations(SHAPE, plan).kept
        - estimate_activations(SHAPE, replace(plan, activation_checkpointing="full")).kept
    )
    tokens = plan.tokens
    queries, keys = 64, 32
    outputs = [queries, keys, keys, queries, 64, 160, 160, 64]  # q, k, v, attention, o, gate, up, down
    logarithms = tokens * SHAPE.heads * 4
    assert kept == SHAPE.layers * (tokens * sum(outputs) * plan.compute_bytes + logarithms)
