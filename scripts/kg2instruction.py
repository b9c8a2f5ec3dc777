#!/usr/bin/env python
"""Extraction training data out of Wikipedia and Wikidata; see configs/kg2instruction.yaml."""

import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from src.command import command
from src.instructions.kg2instruction.completion import Complete, FoundTriple
from src.instructions.kg2instruction.passages import Limits
from src.instructions.kg2instruction.pipeline import make_records
from src.instructions.kg2instruction.relate import Relating
from src.instructions.kg2instruction.settings import Settings
from src.instructions.kg2instruction.vocabulary import Language

# settings that are passed on as they are
SAME = (
    *("language", "output", "index", "dictionary", "max_triples", "min_triples", "empty_texts", "unrelated_pairs"),
    *("validation_fraction", "test_fraction", "part_bytes", "overwrite", "keep_work", "entailment"),
)


@command("kg2instruction")
def main(cfg: DictConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = OmegaConf.to_container(cfg, resolve=True)
    paths = {name: [given[name]] if isinstance(given[name], str) else given[name] for name in ("wikipedia", "wikidata")}
    hooks = {
        "ner": given["ner"] and functools.partial(instantiate, given["ner"]),
        "completion": given["completion"] and functools.partial(completer, given["language"], given["completion"]),
    }
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


def completer(language: Language, options: dict[str, Any]) -> Complete:
    """A function that finds triples with an extraction model; ``options`` are those of `Extractor.from_pretrained`."""
    from src.extraction.extractor import Extractor
    from src.extraction.schema import RelationType, Schema, Task

    extractor = Extractor.from_pretrained(**options)

    def complete(text: str, relations: Sequence[str]) -> list[FoundTriple]:
        schema = Schema(relations=tuple(RelationType(name) for name in relations), language=language)
        found = extractor.extract(text, schema, Task.RE)
        return [FoundTriple(one.head, one.relation, one.tail) for one in found.items.relations]

    return complete


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
