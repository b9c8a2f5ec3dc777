#!/usr/bin/env python
"""Fetch a model, or list the zoo; see configs/download.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from src.command import command
from src.models.download import resolve
from src.models.table import zoo_table
from src.models.zoo import list_models


@command("download")
def main(cfg: DictConfig) -> None:
    console = Console()
    if cfg.list:
        console.print(zoo_table(list_models()))
        return
    console.print(str(resolve(instantiate(cfg.model))), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
