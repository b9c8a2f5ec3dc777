"""DeepSpeed's sharded checkpoints: read whole parameters from them, and share them out to another layout.

``FOLDER/checkpoint/`` holds, for each process, ``*zero_pp_rank_<n>_mp_rank_00_optim_states.pt`` with its slice of the
float32 weights and of the optimizer's moments, flat and end to end. Under ZeRO-3 a slice is one part of *each*
parameter (rounded up, the last one shorter); under ZeRO-1 and ZeRO-2 it is one part of all parameters end to end, so a
parameter lies with one process or goes across a border.

DeepSpeed itself resumes only on the number of processes and the stage that saved (0.19.8). Here every parameter is put
together, one at a time, and cut up anew, so no process needs memory for more than one whole parameter; the files are
mapped, not read into memory.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from src.errors import UserError

WEIGHT = "fp32"  # the name of a parameter's float32 weight beside the names of its moments, such as exp_avg
_SUFFIX = "_optim_states.pt"
_BASE_OPTIMIZER = "base_optimizer_state"  # "optimizer_state_dict" under ZeRO-3


class ZeroCheckpoint:
    """A sharded checkpoint, opened for reading.

    Args:
        folder: as Lightning names it, such as ``checkpoints/last.ckpt``.

    Raises:
        UserError: it is not a complete checkpoint of DeepSpeed's ZeRO.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        inside = self.folder / "checkpoint"
        if not self.folder.is_dir():
            raise UserError(
                f"checkpoint '{folder}' is not a folder of DeepSpeed's: resume it with the trainer that made it, or "
                "start from its export with model=…"
            )
        files = {_rank(path): path for path in inside.glob(f"*zero_pp_rank_*{_SUFFIX}")}
        states = [inside / "mp_rank_00_model_states.pt", inside / "zero_pp_rank_0_mp_rank_00_model_states.pt"]
        self._model_file = next((path for path in states if path.is_file()), None)
        if self._model_file is None or not files or sorted(files) != list(range(len(files))):
            raise UserError(
                f"checkpoint '{folder}' is a folder without DeepSpeed's pieces: expected files "
                "checkpoint/*zero_pp_rank_0_mp_rank_00_optim_states.pt, one for each process, and *model_states.pt"
            )
        self._files = [files[rank] for rank in sorted(files)]
        self._shards: list[dict[str, Any]] | None = None
        self._model: dict[str, Any] | None = None

    @property
    def processes(self) -> int:
        """How many saved it."""
        return len(self._files)

    @property
    def stage(self) -> int:
        return int(self._optimizers()[0]["zero_stage"])

    def is_laid_out_for(self, processes: int, stage: int) -> bool:
        """Whether DeepSpeed can load it as it is; ZeRO-1 and ZeRO-2 save the same files."""
        return processes == self.processes and (stage == 3) == (self.stage == 3)

    @property
    def model_state(self) -> dict[str, Any]:
        """What process 0 wrote besides slices: counters, frozen weights, and Lightning's part of the checkpoint."""
        if self._model is None:
            assert self._model_file is not None
            self._model = _load(self._model_file)
        return self._model

    @property
    def optimizer_settings(self) -> list[dict[str, Any]]:
        """Learning rate and so on of each parameter group."""
        return [
            {key: value for key, value in group.items() if key != "params"}
            for group in self._base_optimizer(self._optimizers()[0])["param_groups"]
        ]

    @property
    def scaling(self) -> dict[str, Any]:
        """The loss scaler and its state."""
        return {key: self._optimizers()[0][key] for key in ("loss_scaler", "dynamic_loss_scale", "overflow")}

    def shapes(self) -> dict[str, torch.Size]:
        """Of every trained parameter, by the name the LightningModule gives it."""
        return {name: shape for group in self.model_state["param_shapes"] for name, shape in group.items()}

    def parameters(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Every trained parameter: its name, its float32 weight and moments in its shape, its scalar state."""
        optimizers = self._optimizers()
        for number, group in enumerate(self.model_state["param_shapes"]):
            flat = [self._flat(optimizer, number) for optimizer in optimizers]
            offset = 0
            for name, shape in group.items():
                if self.stage == 3:
                    part = math.ceil(shape.numel() / self.processes)
                    spans = [(offset, min(part, max(0, shape.numel() - rank * part))) for rank in range(self.processes)]
                    offset += part
                else:
                    spans = [_span(optimizer["param_slice_mappings"][number].get(name)) for optimizer in optimizers]
                yield name, {key: _joined([one[key] for one in flat], spans, shape) for key in flat[0]}

    def weights(self) -> dict[str, Tensor]:
        """Every weight that was saved: trained ones in float32, frozen ones if they were saved as they are, tied ones
        under each of their names."""
        found = {name: state[WEIGHT] for name, state in self.parameters()}
        for name, source in (self.model_state.get("shared_params") or {}).items():
            if source in found:
                found[name] = found[source]
        found |= self._frozen_weights()
        return found

    def _frozen_weights(self) -> dict[str, Tensor]:
        shapes = self.model_state.get("frozen_param_shapes") or {}
        if not self.model_state.get("frozen_param_fragments") or not shapes:
            return {}
        if self.stage != 3:
            return dict(self.model_state["frozen_param_fragments"])
        names = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(self.processes)]
        parts = [_load(self.folder / "checkpoint" / name)["frozen_param_fragments"] for name in names]
        return {
            name: torch.cat([part[name].flatten() for part in parts])[: shape.numel()].view(shape)
            for name, shape in shapes.items()
        }

    def _optimizers(self) -> list[dict[str, Any]]:
        if self._shards is None:
            self._shards = [_load(path)["optimizer_state_dict"] for path in self._files]
        return self._shards

    def _base_optimizer(self, optimizer: dict[str, Any]) -> dict[str, Any]:
        return cast(
            dict[str, Any], optimizer["optimizer_state_dict" if "fp32_flat_groups" in optimizer else _BASE_OPTIMIZER]
        )

    def _flat(self, optimizer: dict[str, Any], group: int) -> dict[str, Tensor]:
        """One process's slice of a group: its weights and its moments, flat; scalars such as the step as they are."""
        weights = optimizer.get("fp32_flat_groups") or optimizer["single_partition_of_fp32_groups"]
        return {WEIGHT: weights[group], **self._base_optimizer(optimizer)["state"].get(group, {})}


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
        state[key] = value.clone() if isinstance(value, Tensor) else value
        return None
    if key not in state:
        state[key] = torch.zeros_like(flat.data)
    return cast(Tensor, state[key])


def _joined(flat: list[Any], spans: list[tuple[int, int]], shape: torch.Size) -> Any:
    if not isinstance(flat[0], Tensor) or not flat[0].dim():
        return flat[0]
    return torch.cat([one[start : start + length] for one, (start, length) in zip(flat, spans, strict=True)]).view(
        shape
    )


def _span(address: Any) -> tuple[int, int]:
    return (address.start, address.numel) if address is not None else (0, 0)


def _rank(path: Path) -> int:
    return int(path.name.split("zero_pp_rank_")[1].split("_")[0])


def _load(path: Path) -> dict[str, Any]:
    """One file, mapped into memory; a pickle with DeepSpeed's own objects, so only load what you trust."""
    try:
        return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=False, mmap=True))
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"'{path}' can't be read ({str(error).splitlines()[0]}): it may be half-written") from error
