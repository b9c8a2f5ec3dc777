"""Changes of weights as objects: small, stored, put on a model and taken off again bit for bit.

A delta holds for each parameter that it changes a matrix ``[out, in]``, as the product of two thin ones where the
method makes it so: an edit of ROME in SmolLM2 is 2,112 numbers in place of 884,736.

Weights are never subtracted from: adding and subtracting a number is not what was there before. `EditedWeights` keeps
each parameter as it was before the first edit, and writes ``original + sum of the deltas`` anew whenever one comes or
goes, so that what remains does not depend on what was there in between.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.errors import UserError

SAMPLED = 1024  # numbers of each parameter that a fingerprint reads
LEFT, RIGHT, DENSE = "|left", "|right", "|dense"


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to one weight: ``left @ right``, or ``left`` alone.

    left: ``[out, rank]``, or ``[out, in]``.
    right: ``[rank, in]``, or None.
    """

    left: Tensor
    right: Tensor | None = None

    def __post_init__(self) -> None:
        if self.left.dim() != 2 or (self.right is not None and self.left.shape[1:] != self.right.shape[:1]):
            shapes = [tuple(each.shape) for each in (self.left, self.right) if each is not None]
            raise ValueError(f"a change is [out, rank] and [rank, in], or [out, in] alone: found {shapes}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        return self.left.shape[0], (self.left if self.right is None else self.right).shape[1]

    @property
    def numbers(self) -> int:
        """That are stored."""
        return self.left.numel() + (0 if self.right is None else self.right.numel())

    def dense(self) -> Tensor:
        """``[out, in]``, float32."""
        left = self.left.float()
        return left if self.right is None else left @ self.right.float()

    @property
    def norm(self) -> float:
        """Frobenius norm; of a product without forming it."""
        if self.right is None:
            return float(self.left.double().norm())
        left, right = self.left.double(), self.right.double()
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())


Delta = Mapping[str, Change]  # by the name of the parameter


def compressed(change: Tensor, tolerance: float = 1e-6) -> Change:
    """A dense change as a product, where that stores fewer numbers and loses at most ``tolerance`` of its norm."""
    values = change.double()
    u, s, v = torch.linalg.svd(values, full_matrices=False)
    lost = s.square().flip(0).cumsum(0).flip(0).sqrt()  # lost[r]: norm of what is beyond rank r
    rank = int((lost > tolerance * lost[0]).sum()) if lost[0] > 0 else 1
    if rank * sum(change.shape) >= change.numel():
        return Change(change)
    return Change((u[:, :rank] * s[:rank]).to(change.dtype), v[:rank].to(change.dtype))


def write_delta(path: Path, delta: Delta, about: Mapping[str, object] | None = None) -> str:
    """Write a delta as safetensors; gives the SHA-256 of the file. ``about``: JSON data for its header."""
    tensors: dict[str, Tensor] = {}
    for name, change in delta.items():
        if change.right is None:
            tensors[name + DENSE] = change.left.contiguous().cpu()
        else:
            tensors[name + LEFT] = change.left.contiguous().cpu()
            tensors[name + RIGHT] = change.right.contiguous().cpu()
    data = save(tensors, {"about": json.dumps(about or {}, ensure_ascii=False)})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_delta(path: Path, sha256: str | None = None) -> dict[str, Change]:
    """The delta of a file.

    Raises:
        UserError: there is none, it is not one, or its bytes are not those of ``sha256``.
    """
    if not path.is_file():
        raise UserError(f"the delta {path} is gone: restore it, or remove the edit that it belongs to")
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise UserError(f"{path} is not the file that was written (its SHA-256 differs): restore it")
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118, it is no dict
                name, _, part = key.rpartition("|")
                parts.setdefault(name, {})[part] = file.get_tensor(key)
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error})") from error
    try:
        return {
            name: Change(found["dense"]) if "dense" in found else Change(found["left"], found["right"])
            for name, found in parts.items()
        }
    except KeyError as error:
        raise UserError(f"{path} holds no delta: a part {error} is missing") from error


def fingerprint(model: PreTrainedModel) -> str:
    """Which weights these are: a hash of the config and of numbers from every parameter, quick for any size."""
    found = hashlib.sha256()
    config = {key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    found.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        values = parameter.detach().reshape(-1)
        sample = values[:: max(1, values.numel() // SAMPLED)][:SAMPLED].float().cpu().contiguous()
        found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        found.update(sample.numpy().tobytes())
    return found.hexdigest()


class EditedWeights:
    """A model's weights with deltas on them, each of which can be taken off at any time."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._originals: dict[str, Tensor] = {}
        self._deltas: dict[str, dict[str, Change]] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._deltas

    def __len__(self) -> int:
        return len(self._deltas)

    @property
    def ids(self) -> list[str]:
        """Of the deltas on the model, in the order in which they came."""
        return list(self._deltas)

    def apply(self, id: str, delta: Delta) -> None:
        """Put a delta on the model.

        Raises:
            UserError: there is one of that id, or the model has no such parameters; the model is as before.
        """
        if id in self._deltas:
            raise UserError(f"the edit '{id}' is on the model already: remove it first, or use another id")
        for name, change in delta.items():
            shape = tuple(self._stored(name).shape)
            if shape != change.shape:
                raise UserError(
                    f"the edit '{id}' has {change.shape} for {name}, which is {shape}: it is of another model"
                )
            if not all(torch.isfinite(each).all() for each in (change.left, change.right) if each is not None):
                raise UserError(f"the edit '{id}' has numbers that are not finite for {name}: it was not applied")
        self._deltas[id] = dict(delta)
        self._write(delta)

    def remove(self, id: str) -> None:
        """Take a delta off. Raises `UserError` where there is none of that id."""
        if id not in self._deltas:
            known = ", ".join(self.ids[-8:]) or "none"
            raise UserError(f"there is no edit '{id}' on the model; there are {known}")
        self._write(self._deltas.pop(id))

    def clear(self) -> None:
        """Take all deltas off: the weights are bit for bit those from before the first."""
        names = {name for delta in self._deltas.values() for name in delta}
        self._deltas.clear()
        self._write(names)

    def _parameter(self, name: str) -> Tensor:
        try:
            return self.model.get_parameter(name)
        except AttributeError as error:
            raise UserError(f"the model has no parameter {name}: the edit is of another model") from error

    def _stored(self, name: str) -> Tensor:
        """The parameter as ``[out, in]``, a view."""
        parameter = self._parameter(name)
        owner = self.model.get_submodule(name.rpartition(".")[0])
        return parameter.detach().T if isinstance(owner, Conv1D) else parameter.detach()

    def _write(self, names: Iterable[str]) -> None:
        """Make parameters what original and deltas say."""
        with torch.no_grad():
            for name in names:
                weight = self._stored(name)
                original = self._originals.setdefault(name, weight.clone())
                changes = [delta[name] for delta in self._deltas.values() if name in delta]
                if not changes:
                    weight.copy_(self._originals.pop(name))
                    continue
                weight.copy_(original.float() + summed(changes).to(weight.device))


def summed(changes: list[Change]) -> Tensor:
    """The sum of changes of one weight, ``[out, in]``, float32; products together in one."""
    products = [(each.left, each.right) for each in changes if each.right is not None]
    total = [each.left.float() for each in changes if each.right is None]
    if products:
        left = torch.cat([left.float() for left, _ in products], 1)
        right = torch.cat([right.float() for _, right in products], 0)
        total.append(left @ right)
    return torch.stack(total).sum(0) if len(total) > 1 else total[0]
