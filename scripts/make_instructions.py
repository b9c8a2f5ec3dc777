#!/usr/bin/env python
"""Write the synthetic extraction instructions: ``python scripts/make_instructions.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omegaconf import DictConfig

from src.command import command
from src.instructions.synthetic_ie import write


@command("make_instructions")
def main(cfg: DictConfig) -> None:
    split = write(cfg.output, cfg.seed, cfg.n_train, cfg.n_test, languages=list(cfg.languages))
    print(f"{len(split.train)} training and {len(split.test)} test examples written to {cfg.output}")
    for example in split.test[:2]:
        print(f"\n{example.instruction}\n{example.input}\n{example.output}")


if __name__ == "__main__":
    main()
