#!/usr/bin/env python
"""Write a Hugging Face or PEFT folder; see configs/export.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.command import command
from src.models.export import export


@command("export")
def main(cfg: DictConfig) -> None:
    fields = {"training_data": cfg.training_data} if cfg.training_data else {}
    print(export(instantiate(cfg.model), cfg.output, cfg.adapter_path, cfg.checkpoint, cfg.dtype, fields))


if __name__ == "__main__":
    main()
