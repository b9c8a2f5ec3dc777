#!/usr/bin/env python
"""Write the synthetic extraction instructions: ``python scripts/make_instructions.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # noqa: E402

from omegaconf import DictConfig  # noqa: E402

from src.command import command  # noqa: E402
from src.instructions.synthetic_ie import write  # noqa: E402


@command("make_instructions")
def main(cfg: DictConfig) -> None:
    split = write(cfg.output, cfg.seed, cfg.n_train, cfg.n_test, languages=list(cfg.languages))
    print(f"{len(split.train)} training and {len(split.test)} test examples written to {cfg.output}")
    for example in split.test[:2]:
        print(f"\n{example.instruction}\n{example.input}\n{example.output}")


if __name__ == "__main__":
    main()
