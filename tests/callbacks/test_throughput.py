"""FLOPs equal those that PyTorch counts, and rates are those of the last steps."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from src.callbacks.throughput import Mark, TrainingFlops, Window
from src.modules.loss import decoder_and_head
from src.strategies.hardware import GPU_PEAK_FLOPS

BATCH, LENGTH, SUPERVISED = 2, 64, 40
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(**settings: Any) -> nn.Module:
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=8,
        num_attention_heads=4,
        attn_implementation="eager",  # squares of scores, which PyTorch counts in full
        **settings,
    )
    return LlamaForCausalLM(config)


def lora(model: Any) -> nn.Module:
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=PROJECTIONS))


def counted_flops(model: nn.Module) -> int:
    """Forward and backward, with the head where there is a loss only."""
    ids = torch.randint(0, 300, (BATCH, LENGTH))
    with FlopCounterMode(display=False) as counter:
        decoder, head = decoder_and_head(model)
        assert decoder is not None and head is not None
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :SUPERVISED]
        F.cross_entropy(head(hidden).flatten(0, 1), ids[:, :SUPERVISED].flatten()).backward()
    return counter.get_total_flops()


def our_flops(model: nn.Module) -> float:
    return TrainingFlops.of(model)(BATCH * LENGTH, BATCH * LENGTH**2, BATCH * SUPERVISED)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 2, "head_dim": 32},
    ],
    ids=str,
)
def test_flops_of_a_training_step_are_those_that_pytorch_counts(settings: dict[str, Any]) -> None:
    model = llama(**settings)
    assert our_flops(model) == pytest.approx(counted_flops(model), rel=1e-3)


def test_flops_of_an_adapter_are_those_that_pytorch_counts() -> None:
    model = lora(llama(num_key_value_heads=2))
    # Nothing before the first layer is trained, so its first products have no gradient of their input: 1 % here.
    assert our_flops(model) == pytest.approx(counted_flops(model), rel=0.015)
    assert our_flops(model) < 0.85 * our_flops(llama(num_key_value_heads=2))


def test_a_frozen_head_gets_no_gradient() -> None:
    model = llama()
    for parameter in model.get_output_embeddings().parameters():  # type: ignore[operator]
        parameter.requires_grad_(False)
    assert our_flops(model) == pytest.approx(counted_flops(model), rel=1e-3)


def test_recomputed_activations_are_no_model_flops() -> None:
    model: Any = llama()
    plain = counted_flops(model)
    for layer in model.model.layers:
        layer.forward = recomputing(layer.forward)
    assert counted_flops(model) > 1.2 * plain
    assert our_flops(model) == pytest.approx(plain, rel=1e-3)


def recomputing(forward: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def test_rates_are_those_of_the_last_steps() -> None:
    window = Window(steps=3)
    assert window.rates(1, 1.0) == {}
    for step in range(10):
        slow = step < 5
        window.add(Mark(step, 10.0 * step if slow else 40 + (step - 4) * 2.0, 100.0 * step, 1e6 * step, 0.5 * step))
    rates = window.rates(devices=2, peak_flops=1e6)
    assert rates["throughput/tokens_per_s"] == pytest.approx(50)
    assert rates["throughput/tokens_per_s_per_device"] == pytest.approx(25)
    assert rates["throughput/mfu"] == pytest.approx(0.25)
    assert rates["throughput/step_time_s"] == pytest.approx(2)
    assert rates["throughput/data_wait_share"] == pytest.approx(0.25)


def test_rates_reach_to_the_last_mark_where_marks_are_rarer_than_the_window() -> None:
    window = Window(steps=3)
    for step in (0, 10, 20):
        window.add(Mark(step, step * 1.0 if step < 20 else 60.0, step * 10.0, 0.0, 0.0))
    assert window.rates(1, 1.0)["throughput/step_time_s"] == pytest.approx(5)


def test_every_gpu_of_the_table_is_found_by_its_own_name() -> None:
    for name, flops in GPU_PEAK_FLOPS.items():
        assert next(peak for part, peak in GPU_PEAK_FLOPS.items() if part in name) == flops
