#!/usr/bin/env python
"""What it costs to hold answers to a grammar, and what it spares.

    python benchmarks/extraction_decoding.py [--model smollm2_135m] [--adapter FOLDER] [--engines transformers,vllm]

Documents of two sentences, and the task NER with four types. All contestants of an engine meet each round, and each
number is the median of the rounds.

Per token: the extractive answers are generated with their grammar, tokens that it forces one by one (what masks cost)
and together (what forcing spares); and freely as many tokens of each document with no grammar and past end tokens. The
model reads the same prompts and writes the same number of tokens each time. On a CPU that is the process's own time, so
that other work on the machine counts less.

Documents a second: answers end by themselves or after --tokens tokens: free, in the JSON schema of the question, and
extractive. How long free answers are is the model's own choice: with --model and --adapter give one that was tuned.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.saving import Result, former, save
from src.extraction.constraints.grammar import answer_grammar, answer_schema
from src.extraction.formats.format import load_format
from src.extraction.schema import EntityType, Question, Task
from src.generation.engine import Decoding, Engine, Request
from src.generation.engines.grammar import follow
from src.generation.setup import Transformers, Vllm, load_engine
from src.models.load import load_tokenizer
from src.models.zoo import find_model

VLLM = Path(os.environ.get("KNOWLM_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
TYPES = ("person", "organization", "place", "date")
QUESTION = Question(Task.NER, tuple(EntityType(name) for name in TYPES))
FREE = "no grammar"
ALONE = 1
TOGETHER = 8
Run = Callable[[], tuple[float, int]]  # gives seconds and tokens


def documents(count: int) -> list[str]:
    """Texts that name people, organizations, places and dates; each another one."""
    people = ("Ada Lovelace", "Charles Babbage", "Grace Hopper", "Alan Turing", "Mary Somerville", "Kathleen Booth")
    groups = ("the Royal Society", "Bletchley Park", "the Analytical Society", "Birkbeck College", "Harvard University")
    places = ("London", "Cambridge", "Turin", "New Haven", "Manchester")
    mixed = list(product(people, groups, places))
    texts = []
    for number in range(count):
        (who, group, place), (other, _, there) = mixed[number * 7 % len(mixed)], mixed[number * 11 % len(mixed)]
        texts.append(
            f"In {1815 + number} {who} of {group} travelled from {place} to {there} with a letter about the engine. "
            f"{other} answered it on {1 + number % 28} May, and both of them spoke at {group} a year later."
        )
    return texts


def requests(engine: Any, texts: list[str], decoding: Callable[[str], Decoding]) -> list[Request]:
    """The prompts of the format OneKE, each with its decoding; as plain text for a model without a template."""
    form, found = load_format("oneke"), []
    for number, text in enumerate(texts):
        message = form.message(QUESTION, text)
        asks = {"prompt": message.text} if engine.prompts.template is None else {"messages": [message]}
        found.append(Request(str(number), decoding=decoding(text), **asks))
    return found


def finish(
    engine: Engine, asked: list[Request], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, dict[str, int], dict[str, str]]:
    """Seconds, and tokens and text of each answer."""
    tokens, texts = {}, dict.fromkeys((request.id for request in asked), "")
    began = clock()
    for event in engine.generate(asked):
        texts[event.request_id] += event.text_delta
        tokens[event.request_id] = event.completion_tokens
    return clock() - began, tokens, texts


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, tuple[float, int]]:
    """Median seconds of each, and the tokens of its last round, after one round that does not count."""
    measured: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            found = run()
            measured[name] += [found] if number else []
    return {name: (statistics.median(s for s, _ in found), found[-1][1]) for name, found in measured.items()}


def per_token(engine: Any, texts: list[str], most: int, rounds: int) -> list[Result]:
    """Time of a token with and without a grammar, on the engine transformers."""
    results = []
    on_cpu = engine.model.device.type == "cpu"
    clock, unit = (time.process_time, "CPU ms/token") if on_cpu else (time.perf_counter, "ms/token")
    extractive = lambda text: Decoding(most, grammar=answer_grammar(QUESTION, text))  # noqa: E731
    _, lengths, answers = finish(engine, requests(engine, texts, extractive))
    results += bookkeeping(engine, texts, list(answers.values()))
    for level in (ALONE, TOGETHER):
        engine.max_parallel = level
        some = texts[: max(4, level)] if level == ALONE else texts

        def run(step_cost: int | None, is_free: bool, some: list[str] = some) -> tuple[float, int]:
            engine.step_cost = step_cost
            counts = iter(lengths[str(number)] for number in range(len(some)))
            free = lambda text: Decoding(next(counts), ignore_eos=True)  # noqa: E731
            seconds, tokens, _ = finish(engine, requests(engine, some, free if is_free else extractive), clock)
            return seconds, sum(tokens.values())

        found = in_turns(
            {
                FREE: lambda run=run: run(None, True),  # type: ignore[misc]
                "one by one": lambda run=run: run(0, False),  # type: ignore[misc]
                "together": lambda run=run: run(None, False),  # type: ignore[misc]
            },
            rounds,
        )
        engine.step_cost = None
        free_ms = 1000 * found[FREE][0] / found[FREE][1]
        for name in ("one by one", "together"):
            ours = 1000 * found[name][0] / found[name][1]
            metric = "extraction.constraint_overhead" + ("" if name == "one by one" else "_forced")
            metric += "" if level == ALONE else f"_batch_{level}"
            note = f"transformers, {level} at a time, forced tokens {name}; {found[name][1]} tokens, prompts included"
            results.append(Result(metric, ours, free_ms, FREE, ours / free_ms, unit, note))
    return results


def bookkeeping(engine: Any, texts: list[str], answers: list[str]) -> list[Result]:
    """What following the grammar costs by itself, over the answers that came out."""
    ends = frozenset({int(engine.tokenizer.eos_token_id)})
    times, compiling, tokens, forced_tokens = [], [], 0, 0
    for text, answer in zip(texts, answers, strict=True):
        began = time.perf_counter()
        grammar = answer_grammar(QUESTION, text + " ")  # not the text that the engine has compiled
        follower = follow(Decoding(grammar=grammar), engine.tokenizer, ends)
        compiling.append(time.perf_counter() - began)
        assert follower is not None
        ids = engine.tokenizer.encode(answer)
        while ids:
            began = time.perf_counter()
            forced = [token for token in follower.forced() if token not in ends]
            if not forced:
                follower.allow(LOGITS)
            follower.take(token := forced[0] if forced else ids[0])
            times.append(time.perf_counter() - began)
            if token != ids[0]:  # the model has spelled it in tokens of its own
                break
            ids, tokens, forced_tokens = ids[1:], tokens + 1, forced_tokens + bool(forced)
    note = f"of {tokens} tokens in {len(texts)} answers"
    return [
        Result("extraction.mask_time", 1e6 * statistics.mean(times), None, None, None, "µs/token", "mean, masking too"),
        Result("extraction.mask_time_p50", 1e6 * statistics.median(times), None, None, None, "µs/token", "median"),
        Result("extraction.grammar_compile", 1e3 * statistics.median(compiling), None, None, None, "ms", "per text"),
        Result("extraction.forced_share", forced_tokens / max(1, tokens), None, None, None, "of tokens", note),
    ]


LOGITS: Any = None  # of a vocabulary, made in `main`


def per_document(name: str, engine: Engine, texts: list[str], most: int, rounds: int) -> list[Result]:
    """Documents a second, with answers that end by themselves."""
    schema = answer_schema(QUESTION)
    kinds: dict[str, Callable[[str], Decoding]] = {
        "free": lambda text: Decoding(most),
        "json": lambda text: Decoding(most, json_schema=schema),
        "extractive": lambda text: Decoding(most, grammar=answer_grammar(QUESTION, text)),
    }

    def run(kind: str) -> tuple[float, int]:
        seconds, tokens, _ = finish(engine, requests(engine, texts, kinds[kind]))
        return seconds, sum(tokens.values())

    found = in_turns({kind: (lambda kind=kind: run(kind)) for kind in kinds}, rounds)  # type: ignore[misc]
    speeds = {kind: len(texts) / seconds for kind, (seconds, _) in found.items()}
    return [
        Result(
            f"extraction.documents_per_second_{kind}_{name}",
            speeds[kind],
            None if kind == "free" else speeds["free"],
            None if kind == "free" else "free",
            None if kind == "free" else speeds[kind] / speeds["free"],
            "documents/s",
            f"{found[kind][1] / len(texts):.0f} tokens an answer, {most} at most; {TOGETHER} at a time",
        )
        for kind in kinds
    ]


def main() -> None:
    global LOGITS
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--adapter", default="")
    parser.add_argument("--engines", default="transformers,vllm")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    spec, texts = find_model(options.model), documents(options.documents)
    use = {
        "context_length": min(1024, spec.context_length or 1024),
        "max_parallel": TOGETHER,
        "adapter_path": options.adapter or None,
    }
    results: list[Result] = []
    for name in options.engines.split(","):
        if name == "vllm" and not VLLM.is_file():
            continue
        kind = Transformers() if name == "transformers" else Vllm(python=str(VLLM), enforce_eager=True, kv_cache_gb=1)
        engine, _ = load_engine(spec, kind, dtype="float32", **use)  # type: ignore[arg-type]
        try:
            if name == "transformers":
                LOGITS = torch.from_numpy(np.zeros(len(load_tokenizer(spec)), dtype=np.float32))
                results += per_token(engine, texts, options.tokens, options.rounds)
                engine.max_parallel = TOGETHER
            results += per_document(name, engine, texts, options.tokens, options.rounds)
        finally:
            engine.close()
    table = Table("metric", "ours", "peer", "ratio", "unit", "note")
    for result in results:
        numbers = (f"{number:.3g}" if number is not None else "" for number in (result.ours, result.peer, result.ratio))
        table.add_row(result.metric, *numbers, result.unit, result.note)
    Console(width=160).print(table)
    fresh = {result.metric for result in results}
    kept = [line for line in former("extraction_decoding") if line["metric"] not in fresh]
    save("extraction_decoding", [*kept, *map(asdict, results)], ["torch", "transformers", "llguidance"])


if __name__ == "__main__":
    main()
