#!/usr/bin/env python
"""Fetch a model, or list the zoo; see configs/download.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from rich.console import Console  # noqa: E402

from src.command import command  # noqa: E402
from src.models.download import resolve  # noqa: E402
from src.models.zoo import list_models, zoo_table  # noqa: E402


@command("download")
def main(cfg: DictConfig) -> None:
    console = Console()
    if cfg.list:
        console.print(zoo_table(list_models()))
        return
    console.print(str(resolve(instantiate(cfg.model))), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
