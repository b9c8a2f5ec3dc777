"""Decoding presets of the page: those of ``configs/decoding/``, so that a name means the same everywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from src.command import CONFIGS, group_options, leading_comment
from src.errors import UserError
from src.generation.engine import Decoding

FOLDER = CONFIGS / "decoding"
FIRST = ("sample", "creative", "precise", "beam", "greedy")  # the order on the page; others follow by name


@dataclass(frozen=True)
class Preset:
    """A named decoding. about: the leading comment of its file."""

    name: str
    about: str
    decoding: Decoding


def load_presets() -> list[Preset]:
    """Every preset, in the page's order. Raises `UserError` for a file whose settings can't be."""
    names = sorted(group_options("decoding"), key=lambda name: (FIRST.index(name) if name in FIRST else 99, name))
    return [_read(name) for name in names]


def _read(name: str) -> Preset:
    values = cast(dict[str, Any], OmegaConf.to_container(_merged(name)))
    values.pop("_target_", None)
    try:
        decoding = Decoding(**values)
    except (TypeError, UserError) as error:
        raise UserError(f"configs/decoding/{name}.yaml is no decoding ({error}): mend it or take it away") from error
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return Preset(name, " ".join(leading_comment(text).split()), decoding)


def _merged(name: str) -> DictConfig:
    """The file with those that its defaults list names below it, as Hydra composes them."""
    path: Path = FOLDER / f"{name}.yaml"
    own = cast(DictConfig, OmegaConf.load(path))
    defaults = [one for one in own.pop("defaults", []) if one != "_self_"]
    return cast(DictConfig, OmegaConf.merge(*(_merged(str(one)) for one in defaults), own))
