"""Time of a step: FLOPs, what travels, what is hidden."""

from dataclasses import replace

import pytest

from src.models.architecture import architecture_of
from src.models.zoo import find_model
from src.preflight.gpus import GPUS, find_gpu
from src.preflight.plan import AdapterPlan, Plan
from src.preflight.step_time import Assumptions, communication_bytes, estimate_step, model_flops

SHAPE = architecture_of(find_model("llama2_13b"))
N = SHAPE.parameters
V100 = find_gpu("V100-32GB")
GIVEN = Assumptions(V100.peak_flops, V100.link, V100.host_link, mfu=0.4, node_network=12.5e9)
PLAN = Plan(devices=8, nodes=3, strategy="zero3", precision="16-mixed", micro_batch=20, accumulation=3)


def test_flops_are_those_of_knowlms_step() -> None:
    """260 s for 1,474,560 tokens on 24 V100 are 14.8 % by 6 N, 15.2 % with attention (reference, section 6)."""
    assert PLAN.tokens_per_step == 1_474_560
    peak = 24 * 125e12
    head_only = 6 * SHAPE.embedding_parameters * PLAN.tokens_per_step  # the embedding is a lookup
    assert (model_flops(SHAPE, PLAN) + head_only) / 260 / peak == pytest.approx(0.150, abs=0.001)


def test_stage_three_moves_the_weights_three_times_a_micro_batch() -> None:
    assert communication_bytes(SHAPE, PLAN) == pytest.approx(3 * 3 * 2 * N * 23 / 24)
    assert communication_bytes(SHAPE, replace(PLAN, accumulation=1)) == pytest.approx(3 * 2 * N * 23 / 24)


def test_stage_two_and_ddp_move_less_with_accumulation() -> None:
    zero2 = communication_bytes(SHAPE, replace(PLAN, strategy="zero2"))
    ddp = communication_bytes(SHAPE, replace(PLAN, strategy="ddp", precision="bf16-true"))
    assert zero2 == pytest.approx((3 + 1) * 2 * N * 23 / 24) and ddp == pytest.approx(2 * 2 * N * 23 / 24)


def test_an_adapters_gradients_are_all_that_ddp_moves() -> None:
    plan = replace(PLAN, strategy="ddp", precision="bf16-mixed", adapter=AdapterPlan(16, ("q_proj",)))
    assert communication_bytes(SHAPE, plan) == pytest.approx(2 * 4 * 40 * 16 * 2 * 5120 * 23 / 24)


def test_one_device_moves_nothing() -> None:
    time = estimate_step(SHAPE, Plan(precision="bf16-mixed"), GIVEN)
    assert time.communication_bytes == time.communication == time.exposed == 0
    assert time.mfu == pytest.approx(0.4)


def test_recomputation_is_time_but_no_model_flops() -> None:
    kept = estimate_step(SHAPE, PLAN, GIVEN)
    again = estimate_step(SHAPE, replace(PLAN, activation_checkpointing="full"), GIVEN)
    assert again.model_flops == kept.model_flops
    assert again.compute == pytest.approx(kept.compute * 4 / 3) and again.mfu < kept.mfu


def test_what_a_slow_network_takes_is_not_hidden() -> None:
    fast = estimate_step(SHAPE, PLAN, GIVEN)
    slow = estimate_step(SHAPE, PLAN, replace(GIVEN, node_network=0.5e9))
    assert fast.exposed == pytest.approx(0.2 * fast.communication)
    assert slow.exposed == pytest.approx(slow.communication - slow.compute) and slow.total > slow.communication


def test_host_memory_costs_time() -> None:
    plain = estimate_step(SHAPE, PLAN, GIVEN)
    optimizer = estimate_step(SHAPE, replace(PLAN, offload_optimizer=True), GIVEN)
    both = estimate_step(SHAPE, replace(PLAN, offload_optimizer=True, offload_parameters=True), GIVEN)
    assert plain.offload == 0 < optimizer.offload < both.offload


def test_every_gpu_has_memory_near_its_name() -> None:
    for name, gpu in GPUS.items():
        gigabytes = int(name.split("-")[-1].removesuffix("GB"))
        assert 0.88 * gigabytes < gpu.memory / 2**30 <= gigabytes and gpu.peak_flops > 1e13
