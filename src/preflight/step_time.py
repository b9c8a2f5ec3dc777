"""Time of an optimizer step, from the FLOPs, a stated utilisation and the bytes that must travel.

Model FLOPs as in `src.callbacks.throughput`: 6 a parameter and token, 4 for frozen ones, and attention within the
causal triangle; what activation checkpointing computes again is time but not model FLOPs (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B). Communication volumes: Rajbhandari et al. 2019, arXiv:1910.02054, section 7: a device
sends and receives twice the gradients under DDP and stages 1 and 2, and three times the weights under stage 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.models.architecture import Architecture
from src.preflight.memory import trained_parameters
from src.preflight.plan import Plan

HOST_ADAM_BYTES = 30  # read and written in host memory for each parameter by AdamW: 4 read, 3 written, a 16-bit weight


@dataclass(frozen=True)
class Assumptions:
    """What can't be known from the config.

    mfu: share of the peak that model FLOPs reach on one device, without communication and without recomputation: the
        activations that are computed again make a step longer on top of it.
    node_network: bytes/s that leave a node, over all its network cards.
    latency_s: of one collective for each node it passes.
    overlap: share of the communication that can hide behind computation.
    host_memory_rate: bytes/s of a node's host memory, which bounds an optimizer there.
    """

    peak_flops: float
    link: float
    host_link: float
    mfu: float = 0.4
    node_network: float = 25e9
    latency_s: float = 10e-6
    overlap: float = 0.8
    host_memory_rate: float = 100e9


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, and what they are made of.

    compute, communication: each alone; `exposed` is the communication that nothing hides.
    offload: moving gradients and weights to and from host memory and the optimizer there.
    communication_bytes: that one device receives in a step.
    """

    compute: float
    communication: float
    exposed: float
    offload: float
    model_flops: float
    communication_bytes: float
    tokens: int
    devices: int
    peak_flops: float

    @property
    def total(self) -> float:
        return self.compute + self.exposed + self.offload

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.total

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation of the whole run, communication included."""
        return self.model_flops / self.total / (self.devices * self.peak_flops)


def estimate_step(shape: Architecture, plan: Plan, given: Assumptions) -> StepTime:
    """Time of one optimizer step over all devices.

    Communication of a micro-step overlaps its computation up to ``overlap``; the rest of it, and what is longer than
    the computation, waits. The optimizer in host memory and its transfers overlap nothing.
    """
    flops = model_flops(shape, plan)
    compute = flops * recomputation(plan) / (plan.world_size * given.peak_flops * given.mfu)
    received = communication_bytes(shape, plan)
    communication = communication_time(shape, plan, given, received)
    hidden = min(compute, given.overlap * communication)
    return StepTime(
        compute=compute,
        communication=communication,
        exposed=communication - hidden,
        offload=offload_time(shape, plan, given),
        model_flops=flops,
        communication_bytes=received,
        tokens=plan.tokens_per_step,
        devices=plan.world_size,
        peak_flops=given.peak_flops,
    )


def model_flops(shape: Architecture, plan: Plan) -> float:
    """Of an optimizer step over all devices; every token is taken to see half a row of others."""
    multiplied = shape.parameters - (0 if shape.tied else shape.embedding_parameters)  # a lookup is no product
    trained = trained_parameters(shape, plan)
    token = 6.0 * multiplied if plan.adapter is None else 4.0 * multiplied + 6.0 * trained
    pairs = 12.0 * shape.layers * shape.heads * shape.head_dim * plan.length / 2
    return plan.tokens_per_step * (token + pairs)


def recomputation(plan: Plan) -> float:
    """How much longer a step takes for activations that are computed again; a forward pass is a third of a step.

    ``selective`` keeps all products, so that next to nothing is computed again.
    """
    every, selective = plan.checkpointing.every, plan.checkpointing.selective
    if selective:
        return 1.03
    return 1 + 1 / (3 * every) if every else 1.0


def communication_bytes(shape: Architecture, plan: Plan) -> float:
    """Bytes that each device receives in an optimizer step.

    Stage 3 and FSDP2 gather the weights for the forward and for the backward pass of every micro-batch and reduce
    gradients: 3 × parameters × 2 bytes with 16-bit weights. Stage 2 reduces in every micro-batch and gathers weights
    once; stage 1 and DDP reduce once and gather once (an all-reduce is both). Only what is trained has gradients.
    """
    if plan.world_size == 1:
        return 0.0
    share = (plan.world_size - 1) / plan.world_size
    trained = trained_parameters(shape, plan)
    everything = shape.parameters + (trained if plan.adapter is not None else 0)
    gradients, weights = trained * _wire_bytes(plan), everything * plan.compute_bytes
    if plan.strategy == "fsdp2":
        reductions = 1 if plan.whole_gradients else plan.accumulation
        return share * (plan.accumulation * 2 * weights + reductions * gradients)
    if plan.strategy == "zero3":
        return share * plan.accumulation * (2 * weights + gradients)
    if plan.strategy == "zero2":
        return share * (plan.accumulation * gradients + trained * plan.weight_bytes)
    return share * 2 * gradients


def communication_time(shape: Architecture, plan: Plan, given: Assumptions, received: float) -> float:
    """Rings pass every byte over each link once: within a node over the GPUs' links, between nodes over the network.

    The slower of the two counts, and a latency for each collective, node by node (device by device in one node): one
    collective a layer, three times a micro-batch, where weights are in pieces.
    """
    if plan.world_size == 1:
        return 0.0
    rate = given.link if plan.nodes == 1 else min(given.link, given.node_network)
    in_pieces = plan.strategy in {"zero3", "fsdp2"}
    collectives = 3 * (shape.layers + 1) * plan.accumulation if in_pieces else shape.layers
    hops = plan.nodes if plan.nodes > 1 else 1
    return received / rate + collectives * hops * given.latency_s


def offload_time(shape: Architecture, plan: Plan, given: Assumptions) -> float:
    """Gradients out after each micro-batch, weights back once, AdamW at the rate of host memory; weights in host memory
    come in twice a micro-batch."""
    trained = trained_parameters(shape, plan)
    seconds = 0.0
    pieces = plan.world_size if plan.stage >= 2 or plan.strategy == "fsdp2" else 1
    if plan.offload_optimizer:
        own = trained / pieces * plan.weight_bytes
        seconds += (plan.accumulation + 1) * own / given.host_link
        seconds += trained / plan.nodes * HOST_ADAM_BYTES / given.host_memory_rate
    if plan.offload_parameters:
        seconds += 2 * plan.accumulation * shape.parameters / pieces * plan.weight_bytes / given.host_link
    return seconds


def _wire_bytes(plan: Plan) -> int:
    """Bytes of a gradient on its way: DDP and FSDP2 send float32 under mixed precision, DeepSpeed the weights' type."""
    if plan.strategy == "fsdp2":
        return 4 if plan.precision.endswith("mixed") else plan.trained_bytes
    return plan.weight_bytes if plan.deepspeed else plan.trained_bytes
