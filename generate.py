#!/usr/bin/env python
"""Generate text: one prompt, a file of prompts, built-in cases, or a conversation.

``python generate.py prompt="Water boils at"``; ``python generate.py --help`` shows the rest.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.command import command
from src.errors import UserError
from src.generation.engine import Engine, Request
from src.generation.tasks import Answer, answers, as_markdown, make_request, read_cases, read_requests, run_to_file

WAYS = ("prompt", "instruction", "prompts", "cases", "interactive")


@command("generate")
def main(cfg: DictConfig) -> None:
    asked = [way for way in WAYS if cfg[way]]
    if len(asked) != 1:
        found = f"found {' and '.join(asked)}" if asked else "found none"
        raise UserError(
            "give one of prompt='…', instruction='…' (with input='…'), prompts=FILE, cases=NAME, "
            f"interactive=true: {found}"
        )
    way = asked[0]
    if way == "prompts" and not cfg.output:
        raise UserError("prompts=FILE needs output=FILE.jsonl to write the answers to")
    if cfg.output and way not in ("prompts", "cases"):
        raise UserError("output= is for prompts=FILE and cases=NAME: send one answer to a file with > FILE")
    if cfg.output and Path(cfg.output).suffix not in ((".jsonl", ".md") if way == "cases" else (".jsonl",)):
        raise UserError(f"output={cfg.output} must end in .jsonl{' or .md' if way == 'cases' else ''}")
    decoding = instantiate(cfg.decoding)

    from src.generation.setup import load_engine  # torch comes in here, after what can be refused at once

    engine, chat = load_engine(
        instantiate(cfg.model),
        adapter_path=cfg.adapter_path,
        template=cfg.template,
        chat=cfg.chat,
        dtype=cfg.dtype,
        device=cfg.device,
        max_parallel=cfg.batch_size,
    )
    if way == "interactive":
        from src.generation.chat import Chat

        Chat(engine, decoding, chat, cfg.system).run()
    elif way == "prompts":
        run_file(engine, read_requests(cfg.prompts, chat, decoding, cfg.system), cfg.output)
    elif way == "cases":
        show_cases(engine, read_cases(cfg.cases, decoding, chat, cfg.system), cfg.cases, cfg.output)
    else:
        record = {"instruction": cfg.instruction, "input": cfg.input} if cfg.instruction else {"prompt": cfg.prompt}
        show_one(engine, make_request(record, "1", chat, decoding, cfg.system))


def show_one(engine: Engine, request: Request) -> None:
    """Print an answer as it comes."""
    for event in engine.generate([request]):
        sys.stdout.write(event.text_delta)
        sys.stdout.flush()
    print()


def run_file(engine: Engine, requests: list[Request], output: str) -> None:
    """Answer a file of prompts with a progress bar."""
    start, tokens = time.perf_counter(), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("generating", total=len(requests))

        def done(answer: Answer) -> None:
            nonlocal tokens
            tokens += answer.completion_tokens
            rate = tokens / (time.perf_counter() - start)
            progress.update(task, advance=1, description=f"{rate:.1f} tokens/s")

        made, before = run_to_file(engine, requests, output, done)
        progress.update(task, completed=len(requests))
    rate = tokens / (time.perf_counter() - start)
    print(f"{made} answers written to {output} ({before} were there already), {tokens} tokens, {rate:.1f} tokens/s")


def show_cases(engine: Engine, requests: list[Request], title: str, output: str | None) -> None:
    """Print the answers of the cases in their order, and write them if asked."""
    found = {}
    for answer in answers(engine, requests):
        found[answer.id] = answer
        print(f"── {answer.id}\n{answer.prompt}\n→ {answer.text.strip()}", end="\n\n")
    results = [found[request.id] for request in requests]
    if output and output.endswith(".md"):
        Path(output).write_text(as_markdown(f"Cases: {title}", results), encoding="utf-8")
    elif output:
        lines = [json.dumps(asdict(answer), ensure_ascii=False) for answer in results]
        Path(output).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
