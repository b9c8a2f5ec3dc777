#!/usr/bin/env python
"""Generate text: one prompt, a file of prompts, built-in cases, or a conversation.

``python generate.py prompt="Water boils at"``; ``python generate.py --help`` shows the rest.
"""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.command import command
from src.errors import UserError
from src.generation.case_report import CaseReport, described, judge, output_files, shown_settings
from src.generation.engine import Decoding, Engine, Request
from src.generation.tasks import (
    Answer,
    Case,
    answers,
    make_request,
    read_cases,
    read_requests,
    run_to_file,
    shown,
    split_input,
)

if TYPE_CHECKING:
    from src.models.placement import Allocation

WAYS = ("prompt", "instruction", "prompts", "cases", "interactive")
TEMPLATE_TOKENS = 200  # of a frame around a prompt, in the estimate of memory
PACKAGES = {
    "transformers": ("torch", "transformers", "peft", "accelerate", "bitsandbytes"),
    "llamacpp": ("xllamacpp",),
}


@command("generate")
def main(cfg: DictConfig) -> None:
    way = chosen_way(cfg)
    decoding: Decoding = instantiate(cfg.decoding)
    cases = read_cases(cfg.cases, decoding, decoding_given()) if way == "cases" else []
    where, allocation = placed(cfg, way, decoding, cases)

    from src.generation.setup import load_engine  # torch comes in here, after what can be refused at once

    spec = instantiate(cfg.model)
    engine, chat = load_engine(
        spec,
        instantiate(cfg.engine),
        adapter_path=cfg.adapter_path,
        template=cfg.template,
        chat=cfg.chat,
        dtype=cfg.dtype,
        device=where,
        max_parallel=cfg.batch_size if way in ("prompts", "cases") else 1,
        context_length=cfg.context_length,
        allocation=allocation,
        quantization=cfg.quantization,
        report=lambda text: print(text, file=sys.stderr, flush=True),
    )
    try:
        if way == "interactive":
            from src.generation.chat import Chat

            Chat(engine, decoding, chat, cfg.system).run()
        elif way == "prompts":
            run_file(engine, read_requests(cfg.prompts, chat, decoding, cfg.system), cfg.output)
        elif way == "cases":
            report = CaseReport(cfg.cases, about(cfg, spec.name, engine), [])
            run_cases(engine, cases, [case.request(chat, cfg.system) for case in cases], report, cfg.output)
        else:
            record = {"instruction": cfg.instruction, "input": cfg.input} if cfg.instruction else {"prompt": cfg.prompt}
            request = make_request(split_input(record, chat), "1", chat, decoding, cfg.system)
            show_one(engine, request, cfg.echo, cfg.verbose)
    finally:
        engine.close()


def chosen_way(cfg: DictConfig) -> str:
    """What is asked for; UserError where it isn't one thing, or ``output`` doesn't go with it."""
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
    if way == "prompts" and Path(cfg.output).suffix != ".jsonl":
        raise UserError(f"output={cfg.output} must end in .jsonl")
    if way == "cases" and cfg.output:
        output_files(cfg.output)
    if cfg.echo and way not in ("prompt", "instruction"):
        raise UserError("echo=true is for prompt= and instruction=: the others show prompts anyway")
    return way


def decoding_given() -> set[str]:
    """The settings of the decoding that the command line names: those of a preset don't go over the cases' own."""
    names = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    return {name.removeprefix("decoding.") for name in names if name.startswith("decoding.")}


def placed(cfg: DictConfig, way: str, decoding: Decoding, cases: Sequence[Case]) -> "tuple[str, Allocation | None]":
    """The device, and what may be used of several where that is asked for or the estimate is wanted."""
    spread = cfg.allocate is not None or cfg.cpu_gb is not None or bool(cfg.disk_gb)
    if not spread and not (cfg.verbose and cfg.engine._target_.endswith("Transformers")):
        return cfg.device, None
    gpus: Any = OmegaConf.to_container(cfg.allocate) if OmegaConf.is_list(cfg.allocate) else cfg.allocate
    if gpus is not None and cfg.device != "auto":
        raise UserError(f"allocate= says which devices are used, and device={cfg.device} too: give one of them")
    from src.models.placement import Allocation

    rows, context = at_once(cfg, way, [case.decoding for case in cases] or [decoding], cases)
    allocation = Allocation(gpus, cfg.cpu_gb, cfg.disk_gb or 0.0, cfg.offload_folder, rows, context)
    return "cpu" if gpus == [] else cfg.device, allocation


def at_once(cfg: DictConfig, way: str, how: Sequence[Decoding], cases: Sequence[Case]) -> tuple[int, int]:
    """At most so many rows, beams counted, of so many tokens each, which need a KV cache; 0 is the model's context."""
    many = cfg.batch_size or cfg.engine.get("batch_size") or 8
    rows = {"prompts": many, "cases": min(many, len(cases))}.get(way, 1) * max(each.num_beams for each in how)
    if way == "interactive":
        return rows, cfg.context_length or 0
    prompts = [" ".join(map(str, case.record.values())) for case in cases]
    if way == "prompts" and Path(cfg.prompts).is_file():
        prompts += Path(cfg.prompts).read_text("utf-8-sig").split("\n")
    prompts.append(f"{cfg.prompt or ''}{cfg.instruction or ''} {cfg.input or ''}")
    longest = max(len(prompt.encode()) for prompt in prompts)  # no token is shorter than a byte
    tokens = longest + len((cfg.system or "").encode()) + TEMPLATE_TOKENS + max(each.max_new_tokens for each in how)
    return rows, min(tokens, cfg.context_length or tokens)


def show_one(engine: Engine, request: Request, echo: bool, verbose: bool) -> None:
    """Print an answer as it comes; on a terminal say how fast it came and how it ended."""
    if echo:
        print(shown(request), end="" if request.messages is None else "\n", flush=True)
    start, event = time.perf_counter(), None
    for event in engine.generate([request]):
        sys.stdout.write(event.text_delta)
        sys.stdout.flush()
    print()
    if event is not None and (verbose or sys.stderr.isatty()):
        rate = event.completion_tokens / (time.perf_counter() - start)
        ended = {"stop": "finished", "length": "cut off at max_new_tokens or the context"}
        reason = ended.get(event.finish_reason or "", event.finish_reason)
        print(f"[{event.completion_tokens} tokens, {rate:.1f} tokens/s, {reason}]", file=sys.stderr)


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


def run_cases(
    engine: Engine, cases: Sequence[Case], requests: Sequence[Request], report: CaseReport, output: str | None
) -> None:
    """Print each answer with its settings and its mark as it comes, keep the files up to date, and sum up."""
    by_name = {case.name: case for case in cases}
    order = {name: number for number, name in enumerate(by_name)}
    start = time.perf_counter()
    for answer in answers(engine, requests):
        result = judge(by_name[answer.id], answer)
        report.results = sorted([*report.results, result], key=lambda one: order[one.id])
        report.seconds = time.perf_counter() - start
        print(f"── {result.id}: {described(result)}\n   {shown_settings(result)}")
        print(f"{result.prompt}\n→ {result.text.strip()}", end="\n\n", flush=True)
        if output:
            report.write(output)
    print(report.summary())
    if output:
        print(f"written to {' and '.join(map(str, report.write(output)))}")


def about(cfg: DictConfig, model: str, engine: Engine) -> dict[str, Any]:
    """What a report says about the run: model, settings, versions."""
    settings = {"engine": engine.name, "quantization": cfg.quantization, "batch_size": engine.max_parallel}
    if (loaded := getattr(engine, "model", None)) is not None and hasattr(loaded, "dtype"):
        settings |= {"dtype": str(loaded.dtype).removeprefix("torch."), "device": str(loaded.device)}
    if (address := getattr(engine, "base_url", None)) is not None:  # an endpoint, whose model is not that of model=
        model, settings["base_url"] = str(loaded), address
    settings |= {name: str(cfg[name]) for name in ("adapter_path", "template", "system", "allocate") if cfg[name]}
    versions = {}
    for package in PACKAGES.get(engine.name, ()):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"model": model, "date": datetime.now(UTC).date().isoformat(), "settings": settings, "versions": versions}


if __name__ == "__main__":
    main()
