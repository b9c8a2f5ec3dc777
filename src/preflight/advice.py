"""What to change so that a run fits, found by trying.

First single changes, each with the memory it leads to; where none of them is enough, changes one on top of the other
until it fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from src.models.architecture import Architecture
from src.preflight.gpus import GIB, Gpu
from src.preflight.memory import MemoryEstimate, estimate_memory
from src.preflight.plan import Plan

Change = tuple[str, Plan]

MOST_DEVICES = 1024  # more of them are no advice


def fits(memory: MemoryEstimate, device: Gpu) -> bool:
    return memory.total <= device.memory


def advice(shape: Architecture, plan: Plan, device: Gpu) -> str:
    """Overrides that make the plan fit, as half a sentence."""

    def need(changed: Plan) -> float:
        return estimate_memory(shape, changed).total

    single: dict[str, str] = {}  # the first, gentlest value of each setting
    for said, changed in single_changes(plan, device):
        if need(changed) <= device.memory:
            single.setdefault(said.partition("=")[0], f"{said} ({need(changed) / GIB:.1f} GiB)")
    if single:
        return "try " + ", or ".join(list(single.values())[:4])
    together: list[str] = []
    while need(plan) > device.memory:
        step = _strongest(plan, device, shape)
        if step is None:
            return "nothing that can be changed here is enough: take a smaller model or GPUs with more memory"
        together, plan = [*together, step[0]], step[1]
    final = {
        part.partition("=")[0]: part for change in together for part in change.split()
    }  # the last word on each setting
    return f"no single change is enough, these together are: {' '.join(final.values())} ({need(plan) / GIB:.1f} GiB)"


def single_changes(plan: Plan, device: Gpu) -> Iterator[Change]:
    """Changes that keep the global batch, the cheapest in time first."""
    if plan.loss == "full":
        yield "module.loss=chunked", replace(plan, loss="chunked")
    if plan.attention in {"sdpa", "eager"} and device.bf16 and plan.compute_bytes == 2:
        yield "module.attn_implementation=auto", replace(plan, attention="varlen")
    for micro_batch in _smaller(plan):
        accumulation = plan.micro_batch * plan.accumulation // micro_batch
        yield f"data.micro_batch_size={micro_batch}", replace(plan, micro_batch=micro_batch, accumulation=accumulation)
    if plan.activation_checkpointing != "full":
        yield "module.activation_checkpointing=full", replace(plan, activation_checkpointing="full")
    if plan.adapter is not None:
        if plan.weights_dtype == "float32":
            yield "module.dtype=bfloat16", replace(plan, weights_dtype="bfloat16")
        if plan.quantization is None and plan.strategy in {"single", "ddp"}:
            yield "adapter=qlora", replace(plan, quantization="nf4")
    yield from _more_partitioning(plan)
    yield from _more_devices(plan)


def _smaller(plan: Plan) -> Iterator[int]:
    """Smaller micro-batches that divide the rows of a device, the largest first."""
    rows = plan.micro_batch * plan.accumulation
    yield from (size for size in range(plan.micro_batch - 1, 0, -1) if rows % size == 0)


def _more_partitioning(plan: Plan) -> Iterator[Change]:
    if plan.world_size > 1 and plan.on_gpu and plan.quantization is None:
        for stage in (2, 3):
            if plan.strategy != "fsdp2" and stage > plan.stage:
                yield f"trainer=deepspeed_zero{stage}", replace(plan, strategy=f"zero{stage}")
    if plan.deepspeed and not plan.offload_optimizer:
        yield "trainer.strategy.offload_optimizer=true", replace(plan, offload_optimizer=True)
    if plan.stage == 3 and not plan.offload_parameters:
        yield "trainer.strategy.offload_parameters=true", replace(plan, offload_parameters=True)
    if plan.strategy == "fsdp2":
        if plan.whole_gradients and plan.accumulation > 1:
            yield "trainer.strategy.sync_each_micro_batch=true", replace(plan, whole_gradients=False)
        if not plan.offload_optimizer:
            yield "trainer.strategy.offload=true", replace(plan, offload_optimizer=True, offload_parameters=True)


def _more_devices(plan: Plan) -> Iterator[Change]:
    """Twice, four times … the nodes, or 8 GPUs instead of one; where more devices leave less on each."""
    if not plan.on_gpu or plan.quantization is not None:
        return
    if plan.world_size == 1 and plan.micro_batch * plan.accumulation % (8 * plan.micro_batch) == 0:
        said = "trainer=deepspeed_zero3 trainer.devices=8"
        yield said, replace(plan, devices=8, strategy="zero3", accumulation=plan.accumulation // 8)
    if plan.stage >= 1 or plan.strategy == "fsdp2":
        times = 2
        while plan.world_size * times <= MOST_DEVICES and plan.accumulation % times == 0:
            changed = replace(plan, nodes=plan.nodes * times, accumulation=plan.accumulation // times)
            yield f"trainer.num_nodes={changed.nodes}", changed
            times *= 2


def _strongest(plan: Plan, device: Gpu, shape: Architecture) -> Change | None:
    """The single change that saves most; None where nothing saves a hundredth."""
    before = estimate_memory(shape, plan).total
    changes = [(estimate_memory(shape, changed).total, said, changed) for said, changed in single_changes(plan, device)]
    best = min(changes, key=lambda change: change[0], default=None)
    return None if best is None or best[0] > 0.99 * before else (best[1], best[2])
