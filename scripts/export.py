#!/usr/bin/env python
"""Write a Hugging Face or PEFT folder; see configs/export.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from src.command import command  # noqa: E402
from src.models.export import export  # noqa: E402


@command("export")
def main(cfg: DictConfig) -> None:
    fields = {"training_data": cfg.training_data} if cfg.training_data else {}
    print(export(instantiate(cfg.model), cfg.output, cfg.adapter_path, cfg.checkpoint, cfg.dtype, fields))


if __name__ == "__main__":
    main()
