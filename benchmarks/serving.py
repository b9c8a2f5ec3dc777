#!/usr/bin/env python
"""Generation speed of every engine, and what our HTTP API adds, beside plain ``transformers.generate``.

``python benchmarks/serving.py`` (about 25 minutes on two cores; ``engines=llamacpp,transformers rounds=1`` for less).

The embedded model answers prompts of about 60 tokens with 64 tokens each, greedily and past end tokens, at 1, 8, 32 and
64 requests at a time. All engines stay loaded, and each round goes through all of them, so that a slow minute of the
machine meets each. No prompt comes twice, so none is found in a cache. Speed is tokens of all answers over the time
from the first request to the last token; the time to the first token is the median over requests. The peer writes one
answer after the other, as plain ``generate`` does (static batches of it are measured too, with the numbers of requests
as batch size). Results without the name of an engine are those of the best one. Weights are bfloat16 in plain
``generate``, in the engine transformers and in vLLM, half precision in llama.cpp, and 8 bits in ``llamacpp_q8_0``.

``serving.api_overhead`` compares time for the same answers through our ``/v1/completions`` and through llama.cpp's own
server, with the same client.
"""

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import aiohttp
import orjson
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.saving import Result, save
from src.generation.engine import Decoding, Engine, Request
from src.generation.engines.server_process import free_port
from src.generation.setup import LlamaCpp, Transformers, Vllm, choose_dtype, load_engine
from src.models.load import load_for_generation
from src.models.zoo import find_model

MODEL, NEW_TOKENS, CONTEXT = "smollm2_135m", 64, 512
LEVELS = (1, 8, 32, 64)
DEFAULT = "llamacpp"  # the engine that a machine without a GPU gets
PLAIN = "transformers.generate"
VLLM = Path(os.environ.get("KNOWLM_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
PROMPT = (
    "{number} is the number of the hill of this weather station. Here are its notes. In the morning there was fog in "
    "the valley, and the wind came from the west. At noon the clouds opened for an hour. The rain gauge showed four "
    "millimetres, and in the evening the"
)

Measured = tuple[float, float]  # tokens a second, median seconds to the first token


_numbers = itertools.count(100)


def prompts(count: int) -> list[str]:
    """Prompts of equal length that differ from their first word on, each of them new."""
    return [PROMPT.format(number=next(_numbers)) for _ in range(count)]


async def on_engine(engine: Engine, count: int) -> Measured:
    """Answers of ``count`` requests that come at once."""
    began, firsts, tokens = time.perf_counter(), [], 0

    async def one(number: int, prompt: str) -> int:
        decoding = Decoding(max_new_tokens=NEW_TOKENS, ignore_eos=True)
        last = None
        async with aclosing(engine.stream(Request(str(number), prompt=prompt, decoding=decoding))) as events:
            async for event in events:
                if last is None:
                    firsts.append(time.perf_counter() - began)
                last = event
        assert last is not None
        return last.completion_tokens

    tokens = sum(await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts(count)))))
    took = time.perf_counter() - began
    await engine.release()
    return tokens / took, statistics.median(firsts)


async def over_http(url: str, key: str, count: int) -> Measured:
    """The same through an OpenAI-compatible server, as a stream."""
    began, firsts, tokens = time.perf_counter(), [], 0

    async def one(session: aiohttp.ClientSession, prompt: str) -> int:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        first, used = True, 0
        async with session.post(url + "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                if first:
                    firsts.append(time.perf_counter() - began)
                    first = False
                usage = orjson.loads(line[6:]).get("usage")
                used = usage["completion_tokens"] if usage else used
        return used

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, connector=connector) as session:
        tokens = sum(await asyncio.gather(*(one(session, prompt) for prompt in prompts(count))))
    return tokens / (time.perf_counter() - began), statistics.median(firsts)


def several(measure: Callable[[], Coroutine[Any, Any, Measured]], level: int) -> Measured:
    """The median of more measures where one is short."""
    speeds, firsts = zip(*(asyncio.run(measure()) for _ in range(max(1, 5 // level))), strict=True)
    return statistics.median(speeds), statistics.median(firsts)


class Plain:
    """``transformers.generate`` as people call it."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_for_generation(find_model(MODEL), dtype=choose_dtype("auto", "cpu"))

    def run(self, batch: int) -> float:
        """Tokens a second of one batch."""
        inputs = self.tokenizer(prompts(batch), return_tensors="pt", padding=True)
        began = time.perf_counter()
        output: Any = self.model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
        return (output.shape[1] - inputs.input_ids.shape[1]) * batch / (time.perf_counter() - began)


class Api:
    """Our server, as a user starts it, in front of llama.cpp."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, str(ROOT / "scripts/serve.py"), "engine=llamacpp", f"context_length={CONTEXT}"]
        command += [f"max_parallel={max(LEVELS)}", f"port={self.url.rpartition(':')[2]}", "log_file=/dev/null"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asyncio.run(self._until_ready())

    async def _until_ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                assert self.process.poll() is None, "scripts/serve.py ended: run it by hand to see why"
                try:
                    async with session.get(self.url + "/ready") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.3)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def open_engines(names: list[str]) -> dict[str, Engine]:
    kinds: dict[str, Callable[[], tuple[Engine, bool]]] = {
        "llamacpp": lambda: load_engine(
            find_model(MODEL), LlamaCpp(), context_length=CONTEXT, max_parallel=max(LEVELS)
        ),
        "llamacpp_q8_0": lambda: load_engine(
            find_model(MODEL), LlamaCpp("q8_0"), context_length=CONTEXT, max_parallel=max(LEVELS)
        ),
        "transformers": lambda: load_engine(
            find_model(MODEL), Transformers(), context_length=CONTEXT, max_parallel=max(LEVELS)
        ),
        "vllm": lambda: load_engine(
            find_model(MODEL),
            Vllm(python=str(VLLM), kv_cache_gb=2, enforce_eager=True),
            context_length=CONTEXT,
            max_parallel=max(LEVELS),
        ),
    }
    engines = {}
    for name in names:
        if name == "vllm" and not VLLM.is_file():
            print("vLLM's environment is not there (make vllm): left out")
            continue
        engines[name] = kinds[name]()[0]
    return engines


def main() -> None:
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    rounds = int(options.get("rounds", 3))
    names = options.get("engines", "llamacpp,llamacpp_q8_0,transformers,vllm").split(",")
    plain, engines = Plain(), open_engines(names)
    api = Api() if DEFAULT in engines else None
    speed: dict[tuple[str, int], list[float]] = defaultdict(list)
    first: dict[tuple[str, int], list[float]] = defaultdict(list)
    overhead: dict[int, list[float]] = defaultdict(list)

    def note(name: str, level: int, measured: Measured) -> float:
        speed[name, level].append(measured[0])
        first[name, level].append(measured[1])
        print(
            f"  {name:24} {level:3}  {measured[0]:7.1f} tokens/s  first token {1000 * measured[1]:6.0f} ms", flush=True
        )
        return measured[0]

    try:
        for engine in engines.values():  # first times are nobody's measure
            asyncio.run(on_engine(engine, 2))
        plain.run(1)
        for number in range(rounds):
            print(f"round {number + 1}")
            for level in LEVELS:
                speed[PLAIN, level].append(plain.run(level))
                print(f"  {PLAIN:24} {level:3}  {speed[PLAIN, level][-1]:7.1f} tokens/s  (one batch)", flush=True)
                for name, engine in engines.items():
                    note(name, level, several(partial(on_engine, engine, level), level))
                if api is not None:
                    bare: Any = engines[DEFAULT]
                    ways = [("llama.cpp's server", bare.server.address, bare._key), ("our API", api.url, "")]
                    for name, url, key in ways if number % 2 else ways[::-1]:
                        note(name, level, several(partial(over_http, url, key, level), level))
                    overhead[level].append(speed["llama.cpp's server", level][-1] / speed["our API", level][-1])
    finally:
        for engine in engines.values():
            engine.close()
        if api is not None:
            api.close()
    report(speed, first, overhead, list(engines))


def report(
    speed: dict[tuple[str, int], list[float]],
    first: dict[tuple[str, int], list[float]],
    overhead: dict[int, list[float]],
    engines: list[str],
) -> None:
    """Print a table and write the results."""
    middle = {key: statistics.median(values) for key, values in speed.items()}
    single = middle[PLAIN, 1]
    table = Table("", *(f"{level} at a time" for level in LEVELS), title=f"{MODEL}, tokens/s (× plain generate)")
    for name in [PLAIN, *engines, *(["llama.cpp's server", "our API"] if overhead else [])]:
        label = f"{name}, static batch" if name == PLAIN else name
        table.add_row(label, *(f"{middle[name, at]:.1f} ({middle[name, at] / single:.1f}×)" for at in LEVELS))
    Console(width=120).print(table)
    results = []
    for metric, level in (("serving.single_vs_hf", 1), ("serving.batch8_vs_hf", 8), ("serving.batch32_vs_hf", 32)):
        fastest = max(engines, key=lambda name: middle[name, level])
        for suffix, name in [("", fastest), *((f".{name}", name) for name in engines)]:
            ours = middle[name, level]
            note = f"{name}, {level} requests at a time; the peer writes one answer after the other"
            results.append(Result(metric + suffix, ours, single, PLAIN, ours / single, "tokens/s", note))
    waits = {name: 1000 * statistics.median(first[name, 32]) for name in engines}
    for suffix, name in [("", min(waits, key=lambda name: waits[name])), *((f".{name}", name) for name in engines)]:
        note = f"{name}: median over 32 requests that come at once"
        results.append(Result("serving.ttft_ms_p50_32" + suffix, waits[name], None, None, None, "ms", note))
    for level, ratios in overhead.items():
        suffix = "" if level == 32 else f".{level}"
        ours, bare = 1 / middle["our API", level], 1 / middle["llama.cpp's server", level]
        note = f"{level} requests at a time, median of the ratios of neighbouring runs"
        ratio = statistics.median(ratios)
        results.append(
            Result("serving.api_overhead" + suffix, ours, bare, "llama.cpp's server", ratio, "s/token", note)
        )
    save("serving", [asdict(result) for result in results], ["torch", "transformers", "xllamacpp", "fastapi"])
    for result in results:
        shown = f"{result.ratio:.2f}" if result.ratio is not None else f"{result.ours:.0f} {result.unit}"
        print(f"{result.metric:36} {shown}")


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    main()
