#!/usr/bin/env python
"""Extraction training data out of Wikipedia and Wikidata; see configs/kg2instruction.yaml."""

import functools
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from src.command import command
from src.instructions.kg2instruction.passages import Limits
from src.instructions.kg2instruction.pipeline import make_records
from src.instructions.kg2instruction.relate import Relating
from src.instructions.kg2instruction.settings import Settings

SAME = ("language", "output", "index", "dictionary", "max_triples", "min_triples", "empty_texts", "unrelated_pairs") + (
    ("validation_fraction", "test_fraction", "part_bytes", "overwrite", "keep_work", "entailment")
)


@command("kg2instruction")
def main(cfg: DictConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = OmegaConf.to_container(cfg, resolve=True)
    paths = {name: [given[name]] if isinstance(given[name], str) else given[name] for name in ("wikipedia", "wikidata")}
    hooks = {name: given[name] and functools.partial(instantiate, given[name]) for name in ("ner", "completion")}
    settings = Settings(
        **paths,
        **hooks,
        **{name: given[name] for name in SAME},
        limits=Limits(cfg.min_characters, cfg.max_characters),
        relating=Relating(given["scope"], given["values"], given["bare_years"]),
    )
    report = make_records(settings, instantiate(cfg.executor))
    if report is not None:
        for table in tables(report):
            Console().print(table)
        Console().print(f"records, schema and report: {settings.output}", soft_wrap=True)


def tables(report: dict) -> list[Table]:  # type: ignore[type-arg]
    """What was made, and what the steps counted and dropped."""
    splits = Table("split", "records", "triples", "entities", box=None, header_style="bold")
    for name, counts in report["splits"].items():
        splits.add_row(name, *(f"{counts.get(key, 0):,}" for key in ("records", "triples", "entities")))
    steps = Table("step", "counts", box=None, header_style="bold")
    for name, counts in report["steps"].items():
        steps.add_row(name, ", ".join(f"{key} {value:,}" for key, value in counts.items()))
    return [splits, steps]


if __name__ == "__main__":
    main()
