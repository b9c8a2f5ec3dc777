"""A DeepSpeed checkpoint of any layout put into an engine: another number of processes, another ZeRO stage.

DeepSpeed itself resumes only on the number of processes and the stage that saved (0.19.8). Here every parameter is put
together, one at a time (`src.models.zero_checkpoint` reads it), and cut up anew, so no process needs memory for more
than one whole parameter.
"""

from typing import Any, cast

import torch
from torch import Tensor

from src.errors import UserError
from src.models.zero_checkpoint import WEIGHT, ZeroCheckpoint


def restore(engine: Any, checkpoint: ZeroCheckpoint) -> dict[str, Any]:
    """Put a checkpoint of any layout into a DeepSpeed engine; returns Lightning's part of it.

    Raises:
        UserError: the checkpoint and the engine train different parameters, or the engine keeps its states on NVMe.
    """
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    saved = checkpoint.shapes()
    wanted = {name: torch.Size(getattr(p, "ds_shape", p.shape)) for name, p in trained.items()}
    if saved != wanted:
        different = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
        raise UserError(
            f"checkpoint '{checkpoint.folder}' and this run differ in {len(different)} trained weights, {different[0]} "
            "among them: resume with the model and adapter settings it was made with"
        )
    zero = engine.optimizer
    if getattr(zero, "swap_optimizer", False):
        raise UserError(
            f"checkpoint '{checkpoint.folder}' was saved by {checkpoint.processes} processes under ZeRO-"
            f"{checkpoint.stage}, and optimizer states on NVMe can't be shared out anew: resume it there, or give "
            "trainer.strategy.offload_optimizer_device=cpu"
        )
    is_stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    if is_stage_3:
        zero.checkpoint_event_prologue()  # small parameters are kept whole between steps
    for name, state in checkpoint.parameters():
        for key, value in state.items():
            (_set_slice_of_stage_3 if is_stage_3 else _set_slice)(zero, trained[name], key, value)
    for group, settings in zip(zero.optimizer.param_groups, checkpoint.optimizer_settings, strict=True):
        group.update(settings)
    if checkpoint.scaling["dynamic_loss_scale"] == zero.dynamic_loss_scale:  # else it is that of another precision
        for key, value in checkpoint.scaling.items():
            setattr(zero, key, value)
    if is_stage_3:
        for sub_group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(sub_group)
        zero.checkpoint_event_epilogue()
    else:
        zero.update_lp_params()
    state = checkpoint.model_state
    engine.global_steps, engine.skipped_steps = state["global_steps"], state["skipped_steps"]
    engine.global_samples = state.get("global_samples", 0)
    of_deepspeed = {"module", "optimizer", "global_steps", "global_samples", "skipped_steps", "param_shapes"}
    return {key: value for key, value in state.items() if key not in of_deepspeed}


def _set_slice_of_stage_3(zero: Any, parameter: Any, key: str, value: Tensor) -> None:
    """Write this process's part of a whole weight or moment where ZeRO-3 keeps it."""
    group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
    flat = zero.fp32_partitioned_groups_flat[group]
    target = _target(zero, flat, key, value)
    if target is None:
        return
    start = zero._get_param_partition_rank(parameter) * length
    part = value.flatten()[start : start + length]
    target[offset : offset + len(part)].copy_(part)
    target[offset + len(part) : offset + length].zero_()


def _set_slice(zero: Any, parameter: Any, key: str, value: Tensor) -> None:
    """Write this process's part of a whole weight or moment, if it has one, where ZeRO-1 and ZeRO-2 keep it."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    target = _target(zero, flat, key, value)
    if target is None:
        return
    ours, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
    target[ours.start : ours.start + ours.numel].copy_(value.flatten()[whole.start : whole.start + whole.numel])


def _target(zero: Any, flat: Tensor, key: str, value: Tensor) -> Tensor | None:
    """The flat tensor a value belongs in; None for a scalar such as the step, which is set here."""
    if key == WEIGHT:
        return flat.data
    state = zero.optimizer.state[flat]
    if not isinstance(value, Tensor) or not value.dim():
        # Fused AdamW on a GPU reads the step there.
        state[key] = value.to(flat.device, copy=True) if isinstance(value, Tensor) else value
        return None
    if key not in state:
        state[key] = torch.zeros_like(flat.data)
    return cast(Tensor, state[key])
