"""What `src.preflight.preflight` found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from src.preflight.advice import fits
from src.preflight.gpus import GIB

if TYPE_CHECKING:
    from src.preflight.preflight import Preflight

Row = tuple[str, str, str]  # what, how much, a remark


def preflight_table(found: Preflight) -> Group:
    """Run, memory and time, one table each, then what was assumed."""
    parts: list[Table | str] = []
    for title, rows in (("run", _run(found)), ("memory of a device", _memory(found)), ("time", _time(found))):
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column(title, no_wrap=True, min_width=28)
        table.add_column(justify="right", no_wrap=True, min_width=12)
        table.add_column(style="dim")
        for row in rows:
            table.add_row(*row)
        parts += [table, ""]
    return Group(*parts, *(f"note: {note}" for note in found.notes))


def _run(found: Preflight) -> Iterator[Row]:
    plan, memory = found.plan, found.memory
    yield "parameters", _number(found.shape.parameters), found.model
    share = memory.trained_parameters / found.shape.parameters
    yield "trained", _number(memory.trained_parameters), "all" if plan.adapter is None else f"an adapter, {share:.2%}"
    yield "devices", str(plan.world_size), f"{plan.nodes} × {plan.devices} {found.device.name}, {strategy_name(found)}"
    batch = f"{plan.micro_batch} rows × {plan.accumulation} micro-batches × {plan.world_size} devices"
    yield "rows in a step", str(found.global_batch), batch
    yield "tokens in a step", _number(plan.tokens_per_step), f"rows of {plan.length}"
    if found.rows_per_epoch is not None:
        steps = found.rows_per_epoch / found.global_batch
        yield "steps in an epoch", f"{steps:,.1f}", f"{_number(found.rows_per_epoch)} rows"
    if found.steps is not None:
        yield "steps", f"{found.steps:,}", f"{_number(found.steps * plan.tokens_per_step)} tokens"


def _memory(found: Preflight) -> Iterator[Row]:
    plan, memory = found.plan, found.memory
    where = "in host memory" if plan.offload_parameters else f"{plan.precision}, loaded as {plan.weights_dtype}"
    yield "weights", gib(memory.weights), f"{plan.quantization}" if plan.quantization else where
    yield "gradients", gib(memory.gradients), ""
    yield "optimizer states", gib(memory.optimizer), "in host memory" if plan.offload_optimizer else ""
    yield "gathered weights", gib(memory.gathered), ""
    yield "communication buffers", gib(memory.buffers), ""
    kept = f"{gib(memory.parts.kept)} kept, checkpointing {plan.activation_checkpointing}, attention {plan.attention}"
    yield "activations at their peak", gib(memory.activations), kept
    loss = f", {plan.loss_chunk} tokens at once" if plan.loss == "chunked" else ""
    when = "part of" if memory.parts.loss_peak > memory.parts.backward_peak else "before"
    yield "  logits and their gradients", gib(memory.parts.logits), f"{plan.loss}{loss}; {when} the peak"
    if memory.together:
        yield "not at the same time", f"-{gib(memory.together)}", "gradients grow while activations shrink"
    yield "context and fragmentation", gib(memory.reserve), ""
    verdict = "fits" if fits(memory, found.device) else "does NOT fit"
    yield "together", gib(memory.total), f"{verdict} in the {gib(found.device.memory)} of {found.device.name}"
    yield "host memory of a node", gib(memory.host), "processes, and what is kept there for the devices"
    yield "a checkpoint on disk", gib(memory.checkpoint), "weights and optimizer states"


def _time(found: Preflight) -> Iterator[Row]:
    time, given = found.time, found.assumed
    stated = f"{given.mfu:.0%} of {given.peak_flops / 1e12:.1f} TFLOP/s; recomputation comes on top"
    yield "computing a step", f"{time.compute:.2f} s", stated
    network = f"{given.node_network * 8 / 1e9:.0f} Gbit/s between nodes"
    link = network if found.plan.nodes > 1 else f"{given.link / 1e9:.0f} GB/s between devices"
    moved = f"{time.communication_bytes / 1e9:.1f} GB to each device, {link}"
    yield "communication", f"{time.communication:.2f} s", moved if found.plan.world_size > 1 else "one device"
    yield "  not hidden by computing", f"{time.exposed:.2f} s", f"overlap {given.overlap:.0%}"
    if time.offload:
        yield "optimizer and copies, host", f"{time.offload:.2f} s", "host memory and its link"
    yield "a step", f"{time.total:.2f} s", f"MFU {time.mfu:.1%}"
    yield "tokens/s", f"{time.tokens_per_s:,.0f}", f"{time.tokens_per_s / time.devices:,.0f} a device"
    if found.hours is not None and found.dollars is not None:
        yield "the whole run", f"{found.hours:,.1f} h", f"{found.hours / 24:,.1f} days"
        hours = found.hours * found.plan.world_size
        yield "cost", f"${found.dollars:,.0f}", f"{hours:,.0f} device hours at ${found.price:.2f}"
    else:
        yield "a billion tokens", f"{1e9 / time.tokens_per_s / 3600:,.1f} h", ""


def strategy_name(found: Preflight) -> str:
    plan = found.plan
    names = {"single": "one process", "ddp": "DDP", "fsdp2": "FSDP2"}
    name = names.get(plan.strategy, f"ZeRO-{plan.stage}")
    kept = [
        what for what, there in (("optimizer", plan.offload_optimizer), ("weights", plan.offload_parameters)) if there
    ]
    return f"{name}, {' and '.join(kept)} in host memory" if kept else name


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _number(value: float) -> str:
    for size, name in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.2f} {name}"
    return f"{value:,.0f}"
