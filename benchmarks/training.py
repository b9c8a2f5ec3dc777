#!/usr/bin/env python
"""How fast training is beside a bare PyTorch loop and Hugging Face's Trainer, and on a GPU with each optimisation.

    python benchmarks/training.py [--parts overhead pretrain sft] [--rounds 3] [--model smollm2_135m]
        [--corpora FOLDER] [--language zh] [--instructions FILE.jsonl]
    python benchmarks/training.py gpu [--budget-s 540]

CORPORA holds ``<language>.jsonl.gz`` with a ``text`` a line; without it the verse of ``data/demo`` is read.
INSTRUCTIONS is a file of alpaca records; without it the ones of ``scripts/make_instructions.py``.

Every loop runs in a process of its own and they take turns, a step or a few each, so a busy machine slows all alike.
The first turn of each warms up and does not count. Written to ``benchmarks/results/training.json``, beside the lines of
parts that were not run:

- ``overhead``: the time of an optimizer step of ``train.py`` with its default callbacks, metrics.csv and no terminal,
  over that of the shortest loop with the same model, batches, loss, optimizer and precision; and over one with Hugging
  Face's model and the cross-entropy of all logits.
- ``pretrain``: real tokens a second, packed by us, beside Hugging Face's ``Trainer`` with its dynamic padding, over the
  same documents, each read once; and the held-out loss of both models afterwards.
- ``sft``: the same with LoRA on instructions, beside ``Trainer`` and peft.
- ``gpu``: see ``benchmarks/training_gpu.py``.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from rich.console import Console
from rich.table import Table
from saving import Result, former, save
from training_data import SmallSet, corpus_file, instruction_set, pretraining_set
from training_turns import Contestant, Turn, race

from src.models.zoo import find_model
from src.strategies.hardware import suitable_precision

PARTS = ("overhead", "pretrain", "sft")
PART_OF = {
    "overhead_vs_bare": "overhead",
    "step_vs_bare_all_logits": "overhead",
    "pretrain_effective_vs_hf": "pretrain",
    "sft_effective_vs_hf": "sft",
}
PACKAGES = ("torch", "lightning", "transformers", "accelerate", "peft", "liger-kernel")
OVERHEAD = {  # rows of a batch, tokens of a row, steps in a turn, by model
    "smollm2_135m": (1, 512, 1),
    "llama_15m": (4, 256, 3),
    "llama_tiny": (4, 128, 3),
}
PEER = "Hugging Face Trainer, dynamic padding"


def common(precision: str, steps: int) -> list[str]:
    """Overrides of every loop: no validation, no warm-up, a constant learning rate."""
    return [
        "trainer=cpu",
        "scheduler=constant",
        "scheduler.warmup_steps=0",
        f"trainer.precision={precision}",
        f"trainer.max_steps={steps}",
        f"trainer.val_every_n_steps={steps}",
        "trainer.limit_val_batches=0",
    ]


def overhead(arguments: argparse.Namespace, precision: str, scratch: Path, console: Console) -> Iterator[Result]:
    """Our step beside the step of a bare loop."""
    for model in arguments.overhead_models:
        rows, length, steps_per_turn = OVERHEAD[model]
        corpus = corpus_file(arguments.corpora, arguments.language)
        data = pretraining_set(corpus, arguments.language, False, length, 8, 4 * arguments.rounds, scratch)
        turns = 8 * arguments.rounds + 1
        overrides = [
            *common(precision, turns * steps_per_turn),
            *data.overrides,
            f"model={model}",
            f"data.micro_batch_size={rows}",
            f"data.global_batch_size={rows}",
            "optimizer.lr=1e-4",
        ]
        settings: dict[str, Any] = {"overrides": overrides, "replaced": data.replaced, "steps_per_turn": steps_per_turn}
        names = {"ours": "train.py", "bare_same_loss": "bare loop, same loss", "bare": "bare loop, all logits"}
        loops = {
            loop: Contestant(name, settings | {"loop": loop}, scratch / model / loop) for loop, name in names.items()
        }
        race(list(loops.values()), [turns] * len(loops))
        yield from compare_steps(loops, model, f"{rows} × {length} tokens, {precision}", console)


def compare_steps(loops: dict[str, Contestant], model: str, what: str, console: Console) -> Iterator[Result]:
    """Step times of ours over both bare loops, and how far the losses lie apart."""
    ours = loops.pop("ours")
    table = Table("loop", "step ms", "CPU ms", "ours / it, wall", "CPU", title=f"{model}, {what}")
    table.add_row(ours.name, *(f"{value:.1f}" for value in (step_ms(ours, "wall_s"), step_ms(ours, "cpu_s"))), "", "")
    for metric, (loop, peer) in zip(("overhead_vs_bare", "step_vs_bare_all_logits"), loops.items(), strict=True):
        wall, cpu = (paired(ours.measured, peer.measured, clock) for clock in ("wall_s", "cpu_s"))
        losses = [[turn.loss for turn in loop.turns if turn.loss is not None] for loop in (ours, peer)]
        apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
        times = (step_ms(peer, "wall_s"), step_ms(peer, "cpu_s"))
        table.add_row(peer.name, *(f"{value:.1f}" for value in times), f"{wall:.3f}", f"{cpu:.3f}")
        note = f"{model}, {what}; median of {len(ours.measured)} turns; CPU time {cpu:.3f}; losses within {apart:.1e}"
        yield Result(f"training.{metric}.{model}", step_ms(ours, "wall_s"), times[0], peer.name, wall, "ms/step", note)
    console.print(table)


def step_ms(contestant: Contestant, clock: str) -> float:
    """Median time of a step."""
    return 1000 * statistics.median(getattr(turn, clock) / turn.steps for turn in contestant.measured)


def paired(ours: Sequence[Turn], peers: Sequence[Turn], clock: str) -> float:
    """Median over the turns of our time over the peer's."""
    return statistics.median(
        (getattr(a, clock) / a.steps) / (getattr(b, clock) / b.steps) for a, b in zip(ours, peers, strict=True)
    )


def effective(
    data: SmallSet, part: str, arguments: argparse.Namespace, precision: str, scratch: Path, console: Console
) -> Iterator[Result]:
    """Real tokens a second of ours and of the peer over the same documents, and the loss afterwards."""
    plan = data.plan
    overrides = [*data.overrides, f"model={arguments.model}", "data.validation_rows=1"]
    if part == "sft":
        overrides += ["adapter=lora", "optimizer.lr=3e-4", "optimizer.weight_decay=0.0"]
    else:
        overrides += ["optimizer.lr=1e-4"]
    rows = [f"data.micro_batch_size={plan.micro_batch}", f"data.global_batch_size={plan.rows}"]
    settings = {"replaced": data.replaced, "evaluate": True}
    mine = settings | {"loop": "ours", "overrides": [*common(precision, plan.steps), *overrides, *rows]}
    theirs = settings | {
        "loop": "hf",
        "overrides": [*common(precision, plan.peer_steps), *overrides],
        "hf_batch_size": plan.peer_batch,
        "hf_accumulation": plan.peer_accumulation,
        "hf_collator": "seq2seq" if part == "sft" else "language_modeling",
    }
    ours = Contestant("train.py, packed", mine, scratch / f"{part}_{data.name}_ours")
    peer = Contestant(PEER, theirs, scratch / f"{part}_{data.name}_hf")
    race([ours, peer], [plan.steps, plan.peer_steps])
    yield compare_speeds(ours, peer, data, part, arguments, console)


def compare_speeds(
    ours: Contestant, peer: Contestant, data: SmallSet, part: str, arguments: argparse.Namespace, console: Console
) -> Result:
    """The line of `effective`."""
    seen = [sum(turn.tokens for turn in contestant.turns) for contestant in (ours, peer)]
    if seen[0] != seen[1]:
        raise SystemExit(f"not the same documents: train.py has read {seen[0]} tokens and the peer {seen[1]}")
    rounds = min(arguments.rounds, len(ours.measured), len(peer.measured))
    mine, theirs = (pieces(contestant.measured, rounds) for contestant in (ours, peer))
    ratios = {
        clock: statistics.median(a / b for a, b in zip(mine[clock], theirs[clock], strict=True)) for clock in mine
    }
    table = Table("loop", "tokens/s", "tokens/CPU-s", "fill", "loss", "GB", title=f"{part}: {data.what}")
    for contestant, rates in ((ours, mine), (peer, theirs)):
        fill = sum(turn.tokens for turn in contestant.turns) / sum(turn.positions for turn in contestant.turns)
        shown = (f"{statistics.median(rates[clock]):.1f}" for clock in ("wall_s", "cpu_s"))
        loss, memory = contestant.end["held_out"], contestant.end["memory_gb"]
        table.add_row(contestant.name, *shown, f"{fill:.3f}", f"{loss:.4f}", f"{memory:.2f}")
    console.print(table)
    plan = data.plan
    note = (
        f"{arguments.model}; {data.what}; {seen[0]} tokens in {plan.steps} steps of ours and {plan.peer_steps} of "
        f"{plan.peer_batch} × {plan.peer_accumulation} segments; CPU time {ratios['cpu_s']:.2f}; held-out loss ours "
        f"{ours.end['held_out']:.4f}, peer {peer.end['held_out']:.4f}; over the whole source rows are "
        f"{plan.fill:.3f} full and padded batches {plan.peer_fill:.3f}; memory ours {ours.end['memory_gb']:.2f} GB, "
        f"peer {peer.end['memory_gb']:.2f} GB"
    )
    metric = f"training.{part}_effective_vs_hf.{data.name}"
    speeds = [statistics.median(rates["wall_s"]) for rates in (mine, theirs)]
    return Result(metric, speeds[0], speeds[1], peer.name, ratios["wall_s"], "real tokens/s", note)


def pieces(turns: Sequence[Turn], rounds: int) -> dict[str, list[float]]:
    """Real tokens a second by either clock, in each of so many equal pieces of a run; both loops ran them at once."""
    bounds = [round(len(turns) * index / rounds) for index in range(rounds + 1)]
    cut = [turns[begin:end] for begin, end in pairwise(bounds)]
    return {
        clock: [sum(turn.tokens for turn in piece) / sum(getattr(turn, clock) for turn in piece) for piece in cut]
        for clock in ("wall_s", "cpu_s")
    }


def plain_first(results: Sequence[Result]) -> Iterator[Result]:
    """The first line of each metric without what it was measured on in its name: that is in the note."""
    seen = set()
    for result in results:
        plain = ".".join(result.metric.split(".")[:2])
        yield result if plain in seen else replace(result, metric=plain)
        seen.add(plain)


def measure(arguments: argparse.Namespace, scratch: Path, console: Console) -> Iterator[Result]:
    """Every part that was asked for."""
    precision = suitable_precision("cpu")
    if "overhead" in arguments.parts:
        yield from overhead(arguments, precision, scratch, console)
    if "pretrain" in arguments.parts:
        corpus = corpus_file(arguments.corpora, arguments.language)
        cut = (arguments.max_length, arguments.pretrain_batch, 2 * arguments.rounds + 1, scratch)
        for short in (False, True):
            data = pretraining_set(corpus, arguments.language, short, *cut)
            yield from effective(data, "pretrain", arguments, precision, scratch, console)
    if "sft" in arguments.parts:
        spec = find_model(arguments.model)
        cut = (512, arguments.sft_batch, 2 * arguments.rounds + 1, scratch)
        data = instruction_set(arguments.instructions, spec, *cut)
        yield from effective(data, "sft", arguments, precision, scratch, console)


def main() -> None:
    if sys.argv[1:2] == ["gpu"]:
        from training_gpu import main as gpu

        gpu(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="gpu: python benchmarks/training.py gpu --help"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3, help="measured pieces of every comparison")
    parser.add_argument("--model", default="smollm2_135m", help="of pretrain and sft: one of the model zoo")
    parser.add_argument("--overhead-models", nargs="+", default=["smollm2_135m", "llama_15m"], choices=list(OVERHEAD))
    parser.add_argument("--corpora", type=Path, help="folder of <language>.jsonl.gz")
    parser.add_argument("--language", default="zh", choices=("zh", "en", "code"), help="which of the corpora")
    parser.add_argument("--instructions", type=Path, default=ROOT / "data" / "sft" / "demo_ie" / "train.jsonl")
    parser.add_argument("--max-length", type=int, default=1024, help="of pretrain: tokens of a segment and of a row")
    parser.add_argument("--pretrain-batch", type=int, default=4, help="segments the peer pads and runs at once")
    parser.add_argument("--sft-batch", type=int, default=8, help="the same for instructions")
    parser.add_argument("--dry-run", action="store_true", help="print the results and write no file")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if arguments.corpora is None:
            arguments.corpora = scratch / "corpora"
            arguments.corpora.mkdir()
            shutil.copy(ROOT / "data" / "demo" / "zh_verse.jsonl.gz", arguments.corpora / "zh.jsonl.gz")
        results = list(plain_first(list(measure(arguments, scratch, console))))
    for result in results:
        console.print(f"{result.metric}: {result.ratio:.3f}", highlight=False)
    if not arguments.dry_run:
        measured = {part for part in PARTS if part in arguments.parts}
        kept = [line for line in former("training") if PART_OF[line["metric"].split(".")[1]] not in measured]
        save("training", [*kept, *(asdict(result) for result in results)], PACKAGES)


if __name__ == "__main__":
    main()
