#!/usr/bin/env python
"""Make the difference of two models, or a model out of a difference; see configs/weight_diff.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.command import command
from src.errors import UserError
from src.models.download import resolve
from src.models.weight_diff import ADDED, SAME, WHOLE, Summary, make_diff, recover
from src.models.zoo import find_model

ACTIONS = ("make", "recover")
MEANINGS = {ADDED: "as differences", SAME: "unchanged, not stored", WHOLE: "whole (new, or of another shape or type)"}


@command("weight_diff")
def main(cfg: DictConfig) -> None:
    if cfg.action not in ACTIONS:
        raise UserError(f"action={cfg.action} is none of: {', '.join(ACTIONS)}")
    other = "tuned" if cfg.action == "make" else "diff"
    if not cfg[other]:
        raise UserError(f"{cfg.action} needs {other}=…: give a folder")
    raw, output = folder_of(cfg.raw), Path(cfg.output).expanduser()
    if cfg.action == "make":
        summary = make_diff(raw, folder_of(cfg.tuned), output, (name_of(cfg.raw), name_of(cfg.tuned)))
    else:
        summary = recover(raw, Path(cfg.diff).expanduser(), output, cfg.dtype)
    Console().print(table_of(summary))
    print(summary.folder)


def folder_of(model: str) -> Path:
    """A model's local folder; a folder that is given need not have a tokenizer."""
    path = Path(model).expanduser()
    return path if path.is_dir() else resolve(find_model(model))


def name_of(model: str) -> str:
    """What a difference calls a model: the name as given, of a folder its last part."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def table_of(summary: Summary) -> Table:
    """What was done, for the terminal."""
    table = Table("tensors", "", box=None, header_style="bold")
    for how, count in summary.tensors.items():
        table.add_row(str(count), MEANINGS[how])
    if summary.only_raw:
        table.add_row(str(len(summary.only_raw)), f"only in the raw model, left out (such as {summary.only_raw[0]})")
    table.add_row("", f"{summary.nbytes / 1e6:,.1f} MB written")
    checked = "every tensor has its SHA-256" if summary.verified else "not checked: the difference came without hashes"
    table.add_row("", checked)
    return table


def with_action(arguments: list[str]) -> list[str]:
    """``make raw=A`` as ``action=make raw=A``."""
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        return [f"action={arguments[0]}", *arguments[1:]]
    return arguments


if __name__ == "__main__":
    sys.argv[1:] = with_action(sys.argv[1:])
    main()
