#!/usr/bin/env python
"""Score a model on instructions or on annotated texts: ``python scripts/evaluate.py --help``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from src.command import command
from src.errors import UserError

if TYPE_CHECKING:
    from src.extraction.scoring.evaluation import ExtractionEvaluation, GoldSet

COLUMNS = ("records", "f1", "precision", "recall", "exact_match", "text_exact_match")
OPTIONS = ("split_num", "max_roles", "max_chunk_tokens", "max_new_tokens", "two_step", "permutations", "vote", "seed")


@command("evaluate")
def main(cfg: DictConfig) -> None:
    ways = {"records": score_records, "samples": score_samples, "answers": score_answers}
    given = [name for name in ways if cfg[name] is not None]
    if len(given) != 1:
        raise UserError(
            "give records=FILE with instructions and answers, samples=FILE with annotated texts, or answers=FILE with "
            f"a model's answers: found {' and '.join(given) or 'none of them'}"
        )
    for name, known in (("mode", ("set", "multiset")), ("match", ("by_type", "under_trigger"))):
        if cfg[name] not in known:
            raise UserError(f"{name}={cfg[name]} is not known: choose one of {', '.join(known)}")
    if cfg.output:  # now, not after hours of answering
        try:
            Path(cfg.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output={cfg.output} can't be made a folder ({error.strerror}): give another") from error
    ways[given[0]](cfg)


def score_records(cfg: DictConfig) -> None:
    """Answer instructions and compare with the answers they come with."""
    from src.extraction.scoring.instructions import evaluate, read_records
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
    name = f"{model.name}{' + ' + cfg.adapter_path if cfg.adapter_path else ''} on {cfg.records}"
    table = Table(title=escape(name))
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


def score_samples(cfg: DictConfig) -> None:
    """Extract from annotated texts and compare with their annotation."""
    gold = given_gold(cfg)
    from src.extraction.constraints.grammar import Limits
    from src.extraction.extractor import Extractor  # torch comes in here, after what can be refused at once
    from src.extraction.scoring.evaluation import evaluate_extractor

    options: dict[str, Any] = {name: cfg[name] for name in OPTIONS}
    extractor = Extractor.from_pretrained(
        instantiate(cfg.model),
        cfg.adapter_path,
        instantiate(cfg.engine),
        cfg.format,
        cfg.constraint,
        template=cfg.template,
        dtype=cfg.dtype,
        device=cfg.device,
        max_parallel=cfg.batch_size,
        limits=Limits(cfg.max_items, cfg.max_span_chars),
        **options,
    )
    with extractor, Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("extracting", total=len(gold.samples))
        result = evaluate_extractor(extractor, gold, cfg.mode, cfg.match, lambda _: progress.advance(bar))
    show(result, f"{cfg.task} of {Path(cfg.samples).name}, {extractor.constraint}")
    if cfg.output:
        result.save(cfg.output, cfg.draws)
        print(f"metrics.json and predictions.jsonl written to {cfg.output}")


def score_answers(cfg: DictConfig) -> None:
    """Score answers that are there already: read with tolerance, strictly, and by IEPile's rules."""
    from src.extraction.formats.format import load_format
    from src.extraction.scoring.answer_files import read_answers, side_by_side

    found = side_by_side(read_answers(cfg.answers, cfg.limit), load_format(cfg.format or "oneke"), cfg.mode, cfg.match)
    table = Table(
        "task", "what", "tolerant F1", "strict F1", "IEPile's F1", title=f"answers of {escape(Path(cfg.answers).name)}"
    )
    names = {"entity": "entity", "triple": "relation", "trigger": "event", "argument": "argument"}
    for task, views in found["tolerant"]["tasks"].items():
        theirs = found["iepile"].get(task, {})
        for view, score in views.items():
            strict = found["strict"]["tasks"][task][view]["micro"]["f1"]
            peer = theirs.get(names.get(view, ""), {}).get("f1")
            shown = "–" if peer is None else f"{peer:.2f}"
            table.add_row(task, view, f"{score['micro']['f1']:.2f}", f"{strict:.2f}", shown)
    Console().print(table)
    for way in ("tolerant", "strict"):
        counts = found[way]["answers"] | (found[way]["notes"] if way == "tolerant" else {})
        print(f"{way}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if cfg.output:
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        (Path(cfg.output) / "metrics.json").write_text(text, encoding="utf-8")
        print(f"metrics.json written to {cfg.output}")


def given_gold(cfg: DictConfig) -> "GoldSet":
    from src.extraction.schema import Task
    from src.extraction.scoring.evaluation import read_gold

    if cfg.schema.source is None or cfg.task is None:
        raise UserError("samples= needs schema=… and task=…: give both")
    source: Any = cfg.schema.source
    schema = OmegaConf.to_container(source, resolve=True) if OmegaConf.is_config(source) else source
    return read_gold(
        cfg.samples,
        schema,
        Task.named(cfg.task),
        format=cfg.samples_format,
        language=cfg.language,
        readable=cfg.readable,
        limit=cfg.limit,
    )


def show(result: "ExtractionEvaluation", title: str) -> None:
    """Tables of the scores: all, by type, by source and category where there are several."""
    table = Table(title=escape(title))
    for column in ("", "precision", "recall", "f1", "right", "found", "expected"):
        table.add_column(column, justify="left" if not column else "right")

    def add(name: str, counts: Any) -> None:
        rates = (f"{value:.2f}" for value in (counts.precision, counts.recall, counts.f1))
        table.add_row(escape(name), *rates, str(counts.right), str(counts.found), str(counts.expected))

    for views in result.report.scores.values():
        for view, score in views.items():
            add(view, score.total)
            groups = [score.by_type, *(each for each in (score.by_source, score.by_category) if len(each) > 1)]
            for group in groups:
                for name, counts in group.items():
                    add(f"  {name}", counts)
            table.add_section()
    Console().print(table)
    statuses = ", ".join(f"{count} {status}" for status, count in result.report.statuses.most_common())
    notes = "".join(f", {count} {note}" for note, count in result.report.notes.most_common())
    print(f"answers: {statuses}{notes}")
    metrics = result.metrics()
    print(
        "{documents} documents in {seconds:.1f} s, {documents_per_second:.2f} documents/s, "
        "{completion_tokens} tokens, {truncated} answers cut off".format(**metrics)
    )


if __name__ == "__main__":
    main()
