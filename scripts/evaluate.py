#!/usr/bin/env python
"""Score a model on instructions with known answers: ``python scripts/evaluate.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from src.command import command
from src.errors import UserError

COLUMNS = ("records", "f1", "precision", "recall", "exact_match", "text_exact_match")


@command("evaluate")
def main(cfg: DictConfig) -> None:
    if not cfg.records:
        raise UserError("give records=FILE.jsonl with the instructions and answers to score on")
    from src.extraction.evaluate import evaluate, read_records
    from src.generation.setup import load_engine

    records = read_records(cfg.records, cfg.limit)
    model = instantiate(cfg.model)
    engine, _ = load_engine(
        model,
        adapter_path=cfg.adapter_path,
        template=cfg.template,
        chat=True,
        dtype=cfg.dtype,
        device=cfg.device,
        max_parallel=cfg.batch_size,
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("answering", total=len(records))
        result = evaluate(engine, records, instantiate(cfg.decoding), cfg.system, lambda _: progress.advance(task))
    table = Table(title=f"{model.name}{' + ' + cfg.adapter_path if cfg.adapter_path else ''} on {cfg.records}")
    for column in ("", *COLUMNS):
        table.add_column(column.replace("_", " "), justify="left" if not column else "right")
    for name, scores in result.metrics["scores"].items():
        values = [scores.get(column) for column in COLUMNS]
        table.add_row(name, str(values[0]), *("–" if value is None else f"{value:.3f}" for value in values[1:]))
    Console().print(table)
    print("{seconds:.1f} s, {completion_tokens} tokens, {tokens_per_second:.1f} tokens/s".format(**result.metrics))
    if cfg.output:
        result.save(cfg.output)
        print(f"metrics.json and predictions.jsonl written to {cfg.output}")


if __name__ == "__main__":
    main()
