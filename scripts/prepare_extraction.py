#!/usr/bin/env python
"""Turn annotated texts into records to tune a model on; see configs/prepare_extraction.yaml."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from src.command import command
from src.errors import UserError
from src.extraction.training.prepare import Source, prepare


@command("prepare_extraction")
def main(cfg: DictConfig) -> None:
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    defaults = settings | {"schema": settings["schema"]["source"]}
    if not isinstance(settings["inputs"], list):
        raise UserError(f"inputs={settings['inputs']} is not a list: give inputs=[FILE] or inputs=[FILE,FILE]")
    sources = [Source.of(given, defaults) for given in settings["inputs"]]
    manifest = prepare(
        sources,
        cfg.output,
        cfg.validation_fraction,
        cfg.general,
        cfg.general_share,
        cfg.seed,
        cfg.overwrite,
    )
    Console().print(table_of(manifest))
    for reason, count in manifest["rejected_rows"].items():
        print(f"{count} rows left out: {reason} (rejects.jsonl has them)")
    general = f", {manifest['general_records']} of them general" if manifest["general_records"] else ""
    print(f"{manifest['training_records']} training records{general}, {manifest['validation_records']} for validation")
    if cfg.count_tokens:
        print(tokens_of(cfg))
    print(cfg.output)


def table_of(manifest: dict[str, Any]) -> Table:
    """What became of each input, for the terminal."""
    table = Table(
        Column("input", no_wrap=True),
        "texts",
        "records",
        "empty",
        "held out",
        "not in text",
        "not in schema",
        box=None,
    )
    for name, one in manifest["inputs"].items():
        counts, validation = one["train"], one["validation"]
        outside = sum(counts["outside_schema"].values())
        numbers = (counts["samples"], counts["records"], counts["empty_records"], validation["samples"])
        table.add_row(name, *map(str, (*numbers, counts["not_in_text"], outside)))
    return table


def tokens_of(cfg: DictConfig) -> str:
    """How many tokens the training records have, and how many of them are too long for the model."""
    from src.datamodules.sft import encode_records, read_records
    from src.models.load import load_tokenizer
    from src.models.templates import load_template

    model = instantiate(cfg.model)
    tokenizer = load_tokenizer(model)
    template = load_template(cfg.template or model.template, tokenizer)
    path = Path(cfg.output).expanduser() / "train.jsonl"
    examples, report = encode_records(path, list(read_records(path)), template, tokenizer, cfg.max_length)
    longest = int(examples.lengths.max()) if len(examples.lengths) else 0
    return f"{report} (max_length={cfg.max_length}, the longest kept {longest})"


if __name__ == "__main__":
    main()
