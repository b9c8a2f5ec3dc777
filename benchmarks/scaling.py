#!/usr/bin/env python
"""Pretraining of a 13B Llama on 24 V100 and on 8, 64 and 1024 H100, on paper.

    python benchmarks/scaling.py

Nothing here is measured: no GPU was at hand. A step's time follows from model FLOPs, the share of the peak that one
device is assumed to reach alone, and the bytes that ZeRO-3 moves over links and network (`src.preflight.step_time`).
For each machine the plan is the fastest of those that fit its memory by `src.preflight.memory`; KnowLM's run is its
own recipe beside its published 260 s a step. Prints a table of all, with the tokens/s of half and double the network,
and writes benchmarks/results/scaling.json.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table
from saving import save

from src.models.architecture import architecture_of
from src.models.zoo import find_model
from src.preflight.advice import fits
from src.preflight.gpus import GIB, find_gpu
from src.preflight.memory import estimate_memory
from src.preflight.plan import Plan
from src.preflight.step_time import Assumptions, StepTime, estimate_step

SEED_STEP_S = 260.0  # KnowLM's README, section 3.2
OVERLAP = 0.8
# Assumed of a single device without communication: Megatron-LM reports 41 to 48 % on H100 for 2B to 462B parameters,
# torchtitan 33 to 41 % (8B, length 8192), nanochat 41 to 46 %. On V100, without flash kernels and bf16, less.
H100_MFU, V100_MFU = 0.45, 0.35
GBIT = 1e9 / 8
H100_NETWORK = 0.75 * 8 * 400 * GBIT  # eight cards of 400 Gbit/s in a node, three quarters of which a ring reaches
V100_NETWORK = 100 * GBIT  # KnowLM does not say; one card of 100 Gbit/s
SHAPE = architecture_of(find_model("llama2_13b"))


@dataclass(frozen=True)
class Machine:
    """What trains, and how large a global batch: ``rows`` of ``length`` tokens."""

    name: str
    gpu: str
    nodes: int
    rows: int
    length: int
    mfu: float
    network: float
    peer_step_s: float | None = None
    plan: Plan | None = None  # instead of the fastest one


KNOWLM = Plan(
    devices=8,
    nodes=3,
    strategy="zero3",
    precision="16-mixed",
    micro_batch=20,
    length=1024,
    accumulation=3,
    activation_checkpointing="full",
    attention="sdpa",
    offload_optimizer=True,
)
MACHINES = [
    Machine("v100x24", "V100-32GB", 3, 1440, 1024, V100_MFU, V100_NETWORK, SEED_STEP_S, KNOWLM),
    Machine("h100x8", "H100-80GB", 1, 1024, 4096, H100_MFU, H100_NETWORK),
    Machine("h100x64", "H100-80GB", 8, 1024, 4096, H100_MFU, H100_NETWORK),
    Machine("h100x1024", "H100-80GB", 128, 1024, 4096, H100_MFU, H100_NETWORK),
]


def assumptions(machine: Machine, network: float = 1.0) -> Assumptions:
    gpu = find_gpu(machine.gpu)
    return Assumptions(
        peak_flops=gpu.peak_flops,
        link=gpu.link,
        host_link=gpu.host_link,
        mfu=machine.mfu,
        node_network=machine.network * network,
        overlap=OVERLAP,
    )


def plans(machine: Machine) -> Iterator[Plan]:
    """ZeRO-3 in bf16 with every micro-batch and activation checkpointing that fits."""
    gpu, rows = find_gpu(machine.gpu), machine.rows // (8 * machine.nodes)
    for micro_batch in (size for size in range(1, rows + 1) if rows % size == 0):
        for checkpointing in ("none", "selective", "every_4", "every_2", "full"):
            plan = Plan(
                devices=8,
                nodes=machine.nodes,
                strategy="zero3",
                precision="bf16-mixed",
                micro_batch=micro_batch,
                length=machine.length,
                accumulation=rows // micro_batch,
                activation_checkpointing=checkpointing,
                attention="varlen",
            )
            if fits(estimate_memory(SHAPE, plan), gpu):
                yield plan


def fastest(machine: Machine) -> tuple[Plan, StepTime]:
    given = assumptions(machine)
    candidates = [machine.plan] if machine.plan else list(plans(machine))
    timed = [(estimate_step(SHAPE, plan, given), plan) for plan in candidates]
    time, plan = min(timed, key=lambda pair: pair[0].total)
    return plan, time


def rows_of(machine: Machine, plan: Plan, time: StepTime) -> Iterator[dict[str, Any]]:
    """The entries of one machine in the results."""
    gpu = find_gpu(machine.gpu)
    memory = estimate_memory(SHAPE, plan).total / GIB
    note = (
        f"on paper, not measured: 13B, {machine.rows} x {machine.length} tokens a step, "
        f"micro-batch {plan.micro_batch} x {plan.accumulation}, recompute {plan.activation_checkpointing}, ZeRO-3, "
        f"{memory:.0f} GiB a GPU; assumed: {machine.mfu:.0%} of {gpu.peak_flops / 1e12:.0f} TFLOP/s on one GPU alone, "
        f"{gpu.link / 1e9:.0f} GB/s in a node, {machine.network / 1e9:.1f} GB/s between nodes, {OVERLAP:.0%} overlap"
    )
    seed = machine.peer_step_s
    peers = {"step_s": seed, "tokens_per_s": seed and time.tokens / seed, "mfu": seed and time.total / seed * time.mfu}
    for quantity, value, unit in (
        ("step_s", time.total, "s"),
        ("tokens_per_s", time.tokens_per_s, "tokens/s"),
        ("mfu", time.mfu, "of peak"),
    ):
        peer = peers[quantity]
        yield {
            "metric": f"training.scaling.{machine.name}.{quantity}",
            "ours": value,
            "peer": peer,
            "peer_name": "KnowLM, published" if peer else None,
            "ratio": value / peer if peer else None,
            "unit": unit,
            "note": note,
        }


def main() -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    columns = (
        "machine",
        "plan",
        "GiB",
        "compute",
        "comm.",
        "exposed",
        "step",
        "tokens/s",
        "a GPU",
        "MFU",
        "slow-fast net",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in {"machine", "plan"} else "right", no_wrap=True)
    found: list[dict[str, Any]] = []
    for machine in MACHINES:
        plan, time = fastest(machine)
        found += rows_of(machine, plan, time)
        range_of_rates = [estimate_step(SHAPE, plan, assumptions(machine, by)).tokens_per_s for by in (0.5, 2.0)]
        table.add_row(
            machine.name,
            f"{plan.micro_batch} x {plan.accumulation}, {plan.activation_checkpointing}",
            f"{estimate_memory(SHAPE, plan).total / GIB:.0f}",
            *(f"{seconds:.2f} s" for seconds in (time.compute, time.communication, time.exposed, time.total)),
            f"{time.tokens_per_s:,.0f}",
            f"{time.tokens_per_s / time.devices:,.0f}",
            f"{time.mfu:.1%}",
            " - ".join(f"{rate:,.0f}" for rate in range_of_rates),
        )
    Console(width=150).print(table)
    v100 = MACHINES[0]
    assert v100.plan is not None
    needed = estimate_step(SHAPE, v100.plan, replace(assumptions(v100), mfu=1.0)).compute / SEED_STEP_S
    print(f"KnowLM's {SEED_STEP_S:.0f} s would be {needed:.1%} of the peak on one V100 alone if nothing else took time")
    save("scaling", found, ("torch",))


if __name__ == "__main__":
    main()
