"""Memory of weights, gradients and optimizer states: what ZeRO's paper says, and what PyTorch allocates."""

from dataclasses import replace

import pytest
import torch

from src.errors import UserError
from src.models.architecture import architecture_of
from src.models.load import load_model
from src.models.spec import ModelSpec
from src.models.zoo import find_model
from src.modules.lora import LoRASettings
from src.modules.optimizer import AdamW
from src.preflight.memory import estimate_memory, frozen_bytes, trained_parameters
from src.preflight.plan import AdapterPlan, Plan

GB = 1e9
SHAPE_13B = architecture_of(find_model("llama2_13b"))
ZERO = Plan(devices=8, nodes=3, strategy="zero3", precision="16-mixed", micro_batch=20, accumulation=3)
LORA = AdapterPlan(16, LoRASettings().target_modules, 0.05)


def states(plan: Plan) -> float:
    memory = estimate_memory(SHAPE_13B, plan)
    return memory.weights + memory.gradients + memory.optimizer


def test_stages_divide_sixteen_bytes_a_parameter_as_in_the_paper() -> None:
    """Rajbhandari et al. 2019, figure 1: K = 12, Nd devices."""
    parameters, world = SHAPE_13B.parameters, 24
    wanted = {"zero1": 2 + 2 + 12 / world, "zero2": 2 + 14 / world, "zero3": 16 / world}
    for strategy, a_parameter in wanted.items():
        assert states(replace(ZERO, strategy=strategy)) == pytest.approx(a_parameter * parameters, rel=1e-6)


def test_without_zero_everything_is_float32_on_each_device() -> None:
    for strategy in ("single", "ddp"):
        plan = replace(ZERO, strategy=strategy, precision="bf16-mixed")
        assert states(plan) == 16 * SHAPE_13B.parameters
    assert states(replace(ZERO, strategy="single", precision="bf16-true")) == 8 * SHAPE_13B.parameters


def test_what_is_offloaded_lies_in_host_memory() -> None:
    here, there = estimate_memory(SHAPE_13B, ZERO), estimate_memory(SHAPE_13B, replace(ZERO, offload_optimizer=True))
    assert there.optimizer == there.gradients == 0 < here.optimizer
    assert there.host - here.host == pytest.approx(18 * SHAPE_13B.parameters / 3, rel=1e-6)
    all_there = estimate_memory(SHAPE_13B, replace(ZERO, offload_optimizer=True, offload_parameters=True))
    assert all_there.weights == 0 and all_there.host > there.host and all_there.total < there.total


def test_weights_gradients_and_states_are_what_pytorch_allocates(llama_tiny: ModelSpec) -> None:
    model = load_model(llama_tiny, from_scratch=True)
    optimizer = AdamW(lr=1e-3).build(model)
    model(torch.ones(1, 8, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    memory = estimate_memory(architecture_of(llama_tiny), Plan(length=8, on_gpu=False))
    parameters = list(model.parameters())
    assert memory.weights == sum(p.nbytes for p in parameters)
    assert memory.gradients == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert memory.optimizer == sum(value.nbytes for value in moments)


@pytest.mark.parametrize("use_dora", [False, True])
def test_trained_parameters_of_an_adapter_are_those_of_peft(llama_tiny: ModelSpec, use_dora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "down_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, use_dora=use_dora)
    model = get_peft_model(load_model(llama_tiny, from_scratch=True), config)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    plan = Plan(adapter=AdapterPlan(4, tuple(targets), 0.0, use_dora))
    assert trained_parameters(architecture_of(llama_tiny), plan) == trained


def test_an_adapter_has_gradients_and_states_of_its_own_only() -> None:
    plan = Plan(precision="bf16-mixed", weights_dtype="bfloat16", adapter=LORA)
    memory = estimate_memory(SHAPE_13B, plan)
    trained = trained_parameters(SHAPE_13B, plan)
    assert trained < SHAPE_13B.parameters / 100
    assert memory.weights == 2 * SHAPE_13B.parameters + 4 * trained
    assert (memory.gradients, memory.optimizer, memory.checkpoint) == (4 * trained, 8 * trained, 12 * trained)


def test_four_bits_take_a_quarter_of_sixteen() -> None:
    plan = Plan(precision="bf16-mixed", weights_dtype="bfloat16", adapter=LORA)
    ratio = frozen_bytes(SHAPE_13B, replace(plan, quantization="nf4")) / frozen_bytes(SHAPE_13B, plan)
    assert 0.25 < ratio < 0.3  # embedding and head stay


def test_gradients_and_activations_never_meet_in_full_without_accumulation() -> None:
    plan = Plan(precision="32-true", length=64)
    once = estimate_memory(SHAPE_13B, plan)
    twice = estimate_memory(SHAPE_13B, replace(plan, accumulation=2))
    assert once.together > 0 and twice.together == 0
    assert twice.tensors - once.tensors == once.together


def test_knowlms_run_fits_its_24_v100_and_not_eight_without_host_memory() -> None:
    """KnowLM ran it: 13B, micro-batch 20 × 1024, whole layers recomputed, ZeRO-3 with the optimizer in host memory."""
    plan = replace(ZERO, activation_checkpointing="full", attention="sdpa", offload_optimizer=True)
    assert 15 * 2**30 < estimate_memory(SHAPE_13B, plan).total < 31.7 * 2**30
    assert estimate_memory(SHAPE_13B, replace(plan, nodes=1, offload_optimizer=False)).total > 31.7 * 2**30


def test_a_checkpoint_of_zero_has_fourteen_bytes_a_parameter() -> None:
    assert estimate_memory(SHAPE_13B, ZERO).checkpoint == 14 * SHAPE_13B.parameters


@pytest.mark.parametrize(
    ("setting", "value"),
    [("strategy", "tp"), ("precision", "8-bit"), ("quantization", "q4"), ("activation_checkpointing", "some")],
)
def test_settings_that_are_not_known_are_named(setting: str, value: str) -> None:
    with pytest.raises(UserError, match=value):
        Plan(**{setting: value})
