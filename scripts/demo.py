#!/usr/bin/env python
"""The main line end to end, as the commands one would type, and a before/after table: ``make demo``.

Nothing here trains or generates: every step is a command run in a process of its own, and the table is read from the
files those commands leave.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.command import ROOT, command
from src.errors import UserError

MODEL = "smollm2_135m"
PROMPTS = {"zh": "春風", "en": "The import statement", "code": "def read_lines(path):\n"}


@command("demo")
def main(cfg: DictConfig) -> None:
    started = time.monotonic()
    folder = Path(cfg.folder)
    folder.mkdir(parents=True, exist_ok=True)
    pretrained, adapter = folder / "pretrain" / "export", folder / "tune" / "export"
    test = ROOT / "data" / "sft" / "demo_ie" / "test.jsonl"

    run("scripts/download.py", f"model={MODEL}")
    run("scripts/preprocess.py", "corpus=demo", f"model={MODEL}")
    run("scripts/make_instructions.py")
    run(
        "train.py",
        "experiment=pretrain_demo",
        f"model={MODEL}",
        f"trainer.max_steps={cfg.pretrain_steps}",
        f"trainer.val_every_n_steps={cfg.pretrain_steps}",
        *run_folder(folder / "pretrain"),
    )
    evaluate(pretrained, None, test, cfg.test_records, folder / "before_tuning")
    run(
        "train.py",
        "experiment=sft_demo",
        f"model={quoted(pretrained)}",
        f"trainer.max_steps={cfg.tune_steps}",
        f"trainer.val_every_n_steps={cfg.tune_steps}",
        *run_folder(folder / "tune"),
    )
    evaluate(pretrained, adapter, test, cfg.test_records, folder / "after_tuning")
    prompts = folder / "prompts.jsonl"
    rows = [{"id": name, "prompt": prompt} for name, prompt in PROMPTS.items()]
    prompts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name, model in (("original", MODEL), ("pretrained", quoted(pretrained))):
        run(
            "generate.py",
            f"model={model}",
            f"prompts={quoted(prompts)}",
            "chat=false",
            "decoding.max_new_tokens=32",
            f"output={quoted(folder / f'{name}.jsonl')}",
        )
    report(folder, time.monotonic() - started)


def run(script: str, *arguments: str) -> None:
    """Run one of the project's commands, shown as it would be typed.

    Raises:
        UserError: it failed; it has said why.
    """
    print("\n$ " + shlex.join(["python", script, *arguments]), flush=True)
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise UserError(f"the demo stopped because {script} did (exit status {done.returncode}), see above")


def evaluate(model: Path, adapter: Path | None, test: Path, limit: int, output: Path) -> None:
    run(
        "scripts/evaluate.py",
        f"model={quoted(model)}",
        *([f"adapter_path={quoted(adapter)}"] if adapter else []),
        f"records={quoted(test)}",
        f"limit={limit}",
        "decoding.max_new_tokens=64",
        f"output={quoted(output)}",
    )


def run_folder(path: Path) -> list[str]:
    return [f"hydra.run.dir={quoted(path)}"]


def quoted(path: Path) -> str:
    """A path as a Hydra override value, spaces and commas included; relative to the checkout where it lies in it."""
    text = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    return f"'{text}'" if any(mark in text for mark in " ,=()[]{}") else text


def report(folder: Path, seconds: float) -> None:
    """Print the before/after table and the texts, and write both beside the runs."""
    pretraining = read_json(folder / "pretrain" / "metrics.json")
    scores = [read_json(folder / name / "metrics.json")["scores"]["all"] for name in ("before_tuning", "after_tuning")]
    rows = [
        (
            f"pretraining, validation bits per byte, {source}",
            pretraining[f"before/val/{source}/bits_per_byte"],
            pretraining[f"val/{source}/bits_per_byte"],
        )
        for source in PROMPTS
    ]
    rows += [
        (f"tuning, extraction {name.replace('_', ' ')} on unseen entities", scores[0][name], scores[1][name])
        for name in ("f1", "exact_match")
    ]
    console = Console(width=110, record=True)
    table = Table(title=f"{MODEL} before and after, {seconds / 60:.1f} minutes in all")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for name, before, after in rows:
        table.add_row(name, f"{before:.3f}", f"{after:.3f}")
    console.print(table)
    console.print(texts_table("What they write", MODEL, "pretrained", continuations(folder)))
    console.print(texts_table("What they answer", "before tuning", "after tuning", answers(folder)))
    console.print(
        f"everything is in {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}", soft_wrap=True
    )
    (folder / "results.md").write_text(f"```\n{console.export_text()}```\n", encoding="utf-8")
    results = {
        "minutes": seconds / 60,
        "rows": [dict(zip(("metric", "before", "after"), r, strict=True)) for r in rows],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


Texts = list[tuple[str, str, str]]


def texts_table(title: str, first: str, second: str, texts: Texts) -> Table:
    table = Table(title=title, show_lines=True)
    for column in ("prompt", first, second):
        table.add_column(column, ratio=1, overflow="fold")
    for row in texts:
        table.add_row(*(text.replace("[", r"\[") for text in row))
    return table


def continuations(folder: Path) -> Texts:
    written = [
        {row["id"]: row["text"] for row in read_jsonl(folder / f"{name}.jsonl")} for name in ("original", "pretrained")
    ]
    return [(prompt, written[0][name], written[1][name]) for name, prompt in PROMPTS.items()]


def answers(folder: Path, count: int = 3) -> Texts:
    before, after = (read_jsonl(folder / name / "predictions.jsonl") for name in ("before_tuning", "after_tuning"))
    return [(old["prompt"], old["predicted"], new["predicted"]) for old, new in zip(before, after, strict=True)][:count]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
