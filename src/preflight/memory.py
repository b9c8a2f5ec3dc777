"""Memory of a training run per device, per node and on disk, from the shape of the model and a plan.

Weights, gradients and optimizer states follow Rajbhandari et al. 2019 (ZeRO, arXiv:1910.02054): with 16-bit weights and
AdamW in float32 a parameter costs 2 + 2 + 12 bytes, and stages 1, 2 and 3 divide the 12, then the gradients, then the
weights by the number of devices. Beside that stand buffers whose size the implementation sets: what is in DeepSpeed
0.19 and in PyTorch 2's FSDP2 and DDP, not what the paper has. Activations: `src.preflight.activations`.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.models.architecture import Architecture
from src.preflight.activations import Activations, estimate_activations
from src.preflight.plan import QUANTIZATIONS, Plan

FLOAT32 = 4
MASTER_AND_MOMENTS = 12  # a float32 weight and AdamW's two moments
# What a process takes on a GPU before it has a tensor: CUDA context, cuBLAS workspace; NCCL's buffers.
CUDA_BYTES, NCCL_BYTES = 700 * 2**20, 600 * 2**20
FRAGMENTATION = 0.05  # of the tensors, held by the caching allocator and not usable
PROCESS_HOST_BYTES = 3 * 2**30  # Python, PyTorch and a loader in host memory


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes; of one device unless said otherwise.

    gathered: whole layers that are put together from the pieces of all devices.
    buffers: of communication.
    activations: their peak, logits and autocast's copies of weights included; `parts` tells them apart.
    reserve: CUDA context, communication library and what fragmentation wastes.
    together: how much less than the sum of all parts is there at any moment, because gradients grow while activations
        shrink.
    host: of a node, the larger of states in host memory and of weights while they are loaded, and the processes.
    checkpoint: on disk, weights and optimizer states over all files.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    buffers: int
    activations: int
    reserve: int
    together: int
    host: int
    checkpoint: int
    trained_parameters: int
    parts: Activations

    @property
    def tensors(self) -> int:
        """The most that tensors take at once."""
        rows = self.weights + self.gradients + self.optimizer + self.gathered + self.buffers + self.activations
        return rows - self.together

    @property
    def total(self) -> int:
        """What a device must have."""
        return self.tensors + self.reserve


@dataclass(frozen=True)
class _States:
    """Bytes of one device, and of all devices' states in host memory together."""

    weights: int
    gradients: int
    optimizer: int
    host: int
    step: int = 0  # more at the optimizer step, when activations are gone


def estimate_memory(shape: Architecture, plan: Plan) -> MemoryEstimate:
    """Memory that training a model of this shape by this plan takes.

    Two moments compete: the peak of activations, with the gradients that are there by then, and the end of the backward
    pass and the optimizer step, with all gradients and hardly an activation.
    """
    trained = trained_parameters(shape, plan)
    frozen_elsewhere = shape.parameters if plan.adapter is not None else 0
    states = _states(shape, plan, trained, frozen_elsewhere)
    parts = estimate_activations(shape, plan)
    gathered, buffers = gathered_bytes(shape, plan), buffer_bytes(plan, trained)
    always = plan.accumulation > 1 or plan.strategy == "zero3"  # DeepSpeed allocates all pieces of gradients at once
    first = states.gradients if always else min(states.gradients, _first_gradients(shape, plan))
    peak = max(first + parts.peak, states.gradients + states.step)
    together = states.gradients + parts.peak - peak
    tensors = states.weights + states.optimizer + gathered + buffers + peak
    reserve = int(FRAGMENTATION * tensors) + (CUDA_BYTES + (NCCL_BYTES if plan.world_size > 1 else 0)) * plan.on_gpu
    return MemoryEstimate(
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        gathered=gathered,
        buffers=buffers,
        activations=parts.peak,
        reserve=reserve,
        together=together,
        host=max(states.host // plan.nodes, loading_bytes(shape, plan)) + plan.devices * PROCESS_HOST_BYTES,
        checkpoint=checkpoint_bytes(shape, plan, trained),
        trained_parameters=trained,
        parts=parts,
    )


def loading_bytes(shape: Architecture, plan: Plan) -> int:
    """Host memory of a node while weights are loaded on their way to the GPUs: whole in each process without pieces.

    ZeRO-3 and FSDP2 load pieces, but DoRA's first magnitudes are taken of a whole model, on one process; weights of 4
    or 8 bits are loaded onto the GPU.
    """
    if not plan.on_gpu or plan.quantization is not None or plan.strategy == "zero3":
        return 0
    if plan.strategy == "fsdp2" and not (plan.adapter and plan.adapter.use_dora):
        return 0
    whole = shape.parameters * (4 if plan.weights_dtype == "float32" else 2)
    return whole if plan.strategy == "fsdp2" else plan.devices * whole


def trained_parameters(shape: Architecture, plan: Plan) -> int:
    """All of the model's, or an adapter's: r × (inputs + outputs) a linear layer, and with DoRA its outputs."""
    if plan.adapter is None:
        return shape.parameters
    shapes = [size for name, size in shape.linear_shapes.items() if name in plan.adapter.target_modules]
    one_layer = sum(plan.adapter.r * (inputs + outputs) for inputs, outputs in shapes)
    if plan.adapter.use_dora:
        one_layer += sum(outputs for _, outputs in shapes)
    return shape.layers * one_layer


def frozen_bytes(shape: Architecture, plan: Plan) -> int:
    """Of a whole frozen model; a quantised one keeps embedding, head and norms as they are."""
    if plan.quantization is None:
        return shape.parameters * plan.weight_bytes
    quantized = shape.layers * shape.layer_linear_parameters
    return int(quantized * QUANTIZATIONS[plan.quantization] / 8) + (shape.parameters - quantized) * plan.weight_bytes


def gathered_bytes(shape: Architecture, plan: Plan) -> int:
    """Whole weights put together from pieces.

    ZeRO-3 keeps up to ``stage3_max_live_parameters`` gathered, besides the module it is about to use; FSDP2 keeps the
    root group (embedding, head, last norm) and two layers, the one at work and the one that comes next. Quantised
    weights are unpacked one matrix at a time.
    """
    if plan.strategy == "zero3":
        one = max(shape.layer_parameters, shape.embedding_parameters)
        return min(shape.parameters, max(plan.live_parameters, one) + one) * plan.weight_bytes
    if plan.strategy == "fsdp2":
        width = plan.compute_bytes
        return (shape.outer_parameters + 2 * shape.layer_parameters) * width
    if plan.quantization is not None:
        return max(inputs * outputs for inputs, outputs in shape.linear_shapes.values()) * plan.compute_bytes
    return 0


def buffer_bytes(plan: Plan, trained: int) -> int:
    """Gradients on their way between devices.

    DDP's buckets are a second copy of all gradients; DeepSpeed has buckets of ``reduce_bucket_size`` elements, two of
    them so that one travels while the other fills.
    """
    if plan.strategy == "ddp" and plan.world_size > 1:
        return trained * plan.trained_bytes
    if plan.deepspeed:
        return 2 * min(plan.reduce_bucket, trained) * plan.weight_bytes
    return 0


def checkpoint_bytes(shape: Architecture, plan: Plan, trained: int) -> int:
    """A resumable checkpoint: weights (an adapter's alone) and optimizer states."""
    if plan.deepspeed:
        return trained * (plan.weight_bytes + MASTER_AND_MOMENTS)
    if plan.adapter is not None:
        return 3 * trained * plan.trained_bytes
    width = FLOAT32 if plan.strategy == "fsdp2" and plan.precision.endswith("mixed") else plan.trained_bytes
    return 3 * trained * width


def _states(shape: Architecture, plan: Plan, trained: int, frozen: int) -> _States:
    if plan.deepspeed:
        return _deepspeed_states(plan, trained, frozen)
    if plan.strategy == "fsdp2":
        return _fsdp2_states(shape, plan, trained, frozen)
    weights = trained * plan.trained_bytes + (frozen_bytes(shape, plan) if frozen else 0)
    width = plan.trained_bytes
    return _States(weights, trained * width, 2 * trained * width, host=0)


def _deepspeed_states(plan: Plan, trained: int, frozen: int) -> _States:
    """DeepSpeed 0.19: weights of ``weight_bytes``, float32 masters and moments of what is trained.

    Stage 1 keeps whole gradients, stages 2 and 3 the pieces of a device. The step makes a float32 gradient of the
    pieces; with the optimizer in host memory that one and the pieces lie there, and stay.
    """
    world, width = plan.world_size, plan.weight_bytes
    weights, gradients, states = (trained + frozen) * width, trained * width, trained * MASTER_AND_MOMENTS
    host = 0
    own_weights = weights // world if plan.stage == 3 else weights
    own_gradients = gradients // world if plan.stage >= 2 else gradients
    own_states, step = states // world, FLOAT32 * trained // world
    if plan.offload_optimizer:
        host += states + FLOAT32 * trained + gradients
        own_states = step = 0
        own_gradients = 0 if plan.stage >= 2 else own_gradients
    if plan.offload_parameters and plan.stage == 3:
        host += weights
        own_weights = 0
    return _States(own_weights, own_gradients, own_states, host, step)


def _fsdp2_states(shape: Architecture, plan: Plan, trained: int, frozen: int) -> _States:
    """PyTorch's FSDP2: pieces in float32 under mixed precision, whole gradients of two layers on the way.

    With ``whole_gradients`` a device keeps float32 gradients of all that is trained until the last micro-batch.
    """
    width = FLOAT32 if plan.precision.endswith("mixed") else plan.trained_bytes
    pieces = plan.pieces
    weights, states = (trained + frozen) * width // pieces, 2 * trained * width // pieces
    whole = trained if plan.whole_gradients and plan.accumulation > 1 else min(trained, 2 * shape.layer_parameters)
    gradients = trained * width // pieces + whole * (FLOAT32 if plan.whole_gradients else plan.compute_bytes)
    if plan.offload_optimizer:
        host = plan.replicas * trained * 4 * width
        return _States(0, gradients - trained * width // pieces, 0, host + plan.replicas * frozen * width)
    return _States(weights, gradients, states, host=0)


def _first_gradients(shape: Architecture, plan: Plan) -> int:
    """Gradients that are there when the last layer is differentiated: those of the head and the last norm."""
    if plan.adapter is not None:
        return 0
    return (shape.embedding_parameters + shape.hidden_size) * plan.trained_bytes
