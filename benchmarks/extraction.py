#!/usr/bin/env python
"""What tuning and what constraints give: F1 of a model before and after, each answering freely, in JSON, extractively.

    python scripts/prepare_extraction.py extraction_data=smollm2 data_dir=FOLDER
    python train.py experiment=sft_ie_smollm2
    python benchmarks/extraction.py --tuned outputs/train/sft_ie_smollm2/TIME/export [--data data/sft/ie/smollm2]

DATA is what ``prepare_extraction.py`` wrote: ``validation/SET.jsonl``, texts that no training record holds, and
``schemas/SET.yaml``. Both models get the same prompts, one for all types of a set, and decode greedily; the three
constraints take turns on every portion of the texts, so that what else the machine does falls on all of them.

F1 is micro, in percent, over sets of (text, type) a document, or of triples. An answer counts only where it is JSON as
it stands (``strict``); ``tolerant`` is what the parser's ladder makes of it. Unreadable answers are those that not even
the ladder reads.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from saving import Result, save

from src.extraction import Extractor
from src.extraction.formats.format import Status
from src.extraction.items import Items
from src.extraction.plan import Constraint, Extraction
from src.extraction.schema import Task
from src.extraction.scoring.evaluation import GoldSet, evaluate_extractor, read_gold
from src.extraction.scoring.scoring import Graded, score

SETS = ("conll04_ner", "crossner_politics_ner", "crossner_science_ner", "cluener_ner", "conll04_re")
TURN = 25  # texts that a constraint answers before it is the next one's turn
METRICS = {Constraint.FREE: "f1_free", Constraint.JSON: "f1_constrained", Constraint.EXTRACTIVE: "f1_extractive"}


@dataclass
class Cell:
    """One model under one constraint on one set."""

    gold: GoldSet
    found: list[Extraction] = field(default_factory=list)
    seconds: float = 0.0

    def score(self, strict: bool):
        """Scores of the answers; ``strict``: those that are not JSON as they stand say nothing."""
        graded = []
        for sample, found in zip(self.gold.samples, self.found, strict=True):
            items = found.items if not strict or set(found.statuses) <= {Status.EXACT} else Items()
            graded.append(Graded(sample, items, self.gold.task, found.statuses, found.notes))
        report = score(graded)
        return next(iter(report.scores[self.gold.task].values()))

    @property
    def unreadable(self) -> int:
        return sum(found.statuses[Status.FAILED] for found in self.found)

    @property
    def documents_per_second(self) -> float:
        return len(self.found) / max(self.seconds, 1e-9)


def measure(extractors: dict[Constraint, Extractor], gold: GoldSet, progress: Progress, name: str) -> dict:
    """Every constraint on every text, in turns."""
    cells = {constraint: Cell(gold) for constraint in extractors}
    bar = progress.add_task(name, total=len(gold.samples) * len(extractors))
    for start in range(0, len(gold.samples), TURN):
        part = replace(gold, samples=gold.samples[start : start + TURN])
        for constraint, extractor in extractors.items():
            began = time.perf_counter()
            cells[constraint].found += evaluate_extractor(extractor, part).extractions
            cells[constraint].seconds += time.perf_counter() - began
            progress.advance(bar, len(part.samples))
    progress.remove_task(bar)
    return cells


def open_extractors(model: str, max_parallel: int, max_new_tokens: int) -> dict[Constraint, Extractor]:
    """One engine, three ways of answering."""
    first = Extractor.from_pretrained(
        model, constraint="free", split_num=-1, max_parallel=max_parallel, max_new_tokens=max_new_tokens
    )
    found = {Constraint.FREE: first}
    for constraint in (Constraint.JSON, Constraint.EXTRACTIVE):
        found[constraint] = Extractor(
            first.engine, constraint=str(constraint), split_num=-1, max_new_tokens=max_new_tokens
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", required=True, help="the tuned model: a folder, such as a run's export")
    parser.add_argument("--base", default="smollm2_135m", help="the model before")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "sft" / "ie" / "smollm2")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--limit", type=int, default=100, help="texts of each set")
    parser.add_argument("--base-limit", type=int, default=50, help="texts that the model before answers")
    parser.add_argument("--max-parallel", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    chosen = parser.parse_args(arguments)
    golds = {
        name: read_gold(
            chosen.data / "validation" / f"{name}.jsonl",
            chosen.data / "schemas" / f"{name}.yaml",
            Task.named(name.rpartition("_")[2]),
            limit=chosen.limit,
        )
        for name in chosen.sets
    }
    results: dict[str, dict[str, dict[Constraint, Cell]]] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for kind, model in (("before", chosen.base), ("after", chosen.tuned)):
            extractors = open_extractors(model, chosen.max_parallel, chosen.max_new_tokens)
            for name, gold in golds.items():
                few = replace(gold, samples=gold.samples[: chosen.base_limit]) if kind == "before" else gold
                results.setdefault(name, {})[kind] = measure(extractors, few, progress, f"{name} {kind}")
            extractors[Constraint.FREE].close()
    show(results)
    rows = [row for name, kinds in results.items() for row in rows_of(name, kinds)]
    save("extraction", [asdict(row) for row in rows], ("torch", "transformers", "llguidance"))


def rows_of(name: str, kinds: dict[str, dict[Constraint, Cell]]) -> list[Result]:
    """For the file of results: before is the peer of after, free answering that of constrained."""
    rows = []
    after = kinds["after"]
    for constraint, metric in METRICS.items():
        ours, peer = after[constraint].score(strict=True), kinds["before"][constraint].score(strict=True)
        low, high = ours.interval()
        note = (
            f"strict; 95 % interval {low:.1f} to {high:.1f}; {len(after[constraint].found)} texts after, "
            f"{len(kinds['before'][constraint].found)} before; tolerant parse "
            f"{after[constraint].score(strict=False).total.f1:.1f}"
        )
        rows.append(_result(f"{metric}.{name}", ours.total.f1, peer.total.f1, "the model before", "%", note))
    for kind, cells in kinds.items():
        errors = cells[Constraint.JSON].unreadable + cells[Constraint.EXTRACTIVE].unreadable
        free = cells[Constraint.FREE].unreadable
        note = f"unreadable answers in JSON and extractive mode, beside those of free answering; the model {kind}"
        rows.append(_result(f"parse_errors_constrained.{name}.{kind}", errors, free, "free", "answers", note))
    for constraint in (Constraint.JSON, Constraint.EXTRACTIVE):
        ours_rate, free_rate = (after[each].documents_per_second for each in (constraint, Constraint.FREE))
        metric = f"documents_per_second.{constraint}.{name}"
        rows.append(_result(metric, ours_rate, free_rate, "free", "documents/s", "one engine, in turns"))
    return rows


def _result(metric: str, ours: float, peer: float, peer_name: str, unit: str, note: str) -> Result:
    return Result(f"extraction.{metric}", ours, peer, peer_name, ours / peer if peer else None, unit, note)


def show(results: dict[str, dict[str, dict[Constraint, Cell]]]) -> None:
    """The table."""
    table = Table(title="strict F1 in percent (unreadable answers)")
    table.add_column("set")
    for kind in ("before", "after"):
        for constraint in METRICS:
            table.add_column(f"{kind}\n{constraint}", justify="right")
    table.add_column("after, documents/s\nfree, json, extractive", justify="right")
    for name, kinds in results.items():
        cells = [
            f"{kinds[kind][constraint].score(strict=True).total.f1:.1f} ({kinds[kind][constraint].unreadable})"
            for kind in ("before", "after")
            for constraint in METRICS
        ]
        speeds = " ".join(f"{kinds['after'][constraint].documents_per_second:.2f}" for constraint in METRICS)
        table.add_row(name, *cells, speeds)
    Console().print(table)


if __name__ == "__main__":
    main()
