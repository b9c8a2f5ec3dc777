"""The models people know by name: one YAML file each in ``configs/model/``, and one way to find any other.

Nothing here imports torch, so that listing the zoo is instant.
"""

import difflib
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.command import CONFIGS, group_options
from src.errors import UserError
from src.models.spec import HUB_ID, ModelSpec

CUSTOM = "custom"


def list_models() -> list[ModelSpec]:
    """Every model of the zoo, smallest first."""
    names = [name for name in group_options("model") if name != CUSTOM]
    return sorted((_read(name) for name in names), key=lambda spec: (spec.parameters, spec.name))


def find_model(name_or_path: str) -> ModelSpec:
    """The model a name of the zoo, a local folder, a ``.gguf`` file or a hub id stands for.

    Raises `UserError` when it is none of these.
    """
    names = [name for name in group_options("model") if name != CUSTOM]
    if name_or_path in names:
        return _read(name_or_path)
    if Path(name_or_path).expanduser().exists() or HUB_ID.fullmatch(name_or_path) or name_or_path.endswith(".gguf"):
        return _read(CUSTOM, path=name_or_path)
    close = difflib.get_close_matches(name_or_path, names, n=1)
    raise UserError(
        f"no model '{name_or_path}'{f' (did you mean {close[0]}?)' if close else ''}: "
        f"expected one of {', '.join(names)}, a local folder, a .gguf file or a hub id (owner/name)"
    )


def _read(name: str, **overrides: Any) -> ModelSpec:
    """A `ModelSpec` from its YAML file, as Hydra would make it with the default ``paths``."""
    model = OmegaConf.merge(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"), overrides)
    root = OmegaConf.create({"paths": OmegaConf.load(CONFIGS / "paths" / "default.yaml"), "model": model})
    fields: Any = OmegaConf.to_container(root.model, resolve=True)
    del fields["_target_"]
    return ModelSpec(**fields)
