"""DeepSpeed's sharded checkpoints: whole parameters out of the pieces that processes saved.

``FOLDER/checkpoint/`` holds, for each process, ``*zero_pp_rank_<n>_mp_rank_00_optim_states.pt`` with its slice of the
float32 weights and of the optimizer's moments, flat and end to end. Under ZeRO-3 a slice is one part of *each*
parameter (rounded up, the last one shorter); under ZeRO-1 and ZeRO-2 it is one part of all parameters end to end, so a
parameter lies with one process or goes across a border. The files are mapped, not read into memory.
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
