#!/usr/bin/env python
"""Soaks the HTTP API: a thousand requests, many at a time, some broken off by their client and some malformed.

``python benchmarks/soak.py`` (about 5 minutes on two cores; ``python benchmarks/soak.py 200 16`` for 200 requests, 16
at a time). It starts ``scripts/serve.py`` with the embedded model on llama.cpp and asks it for chats, completions and
KnowLM's route, plain and streamed. The line is shorter than the number of clients, so that some meet a 429; they come
again when its Retry-After says. Afterwards it checks that

- every request got a whole answer, unless its client left (none stuck), and has one line in the access log (none lost);
- nothing runs or waits, and the engine's process uses no processor time;
- the memory of server and engine did not grow after the first quarter.

Its status is 1 where an answer was lost, stuck or broken, or the server failed; times and memory are for the reader.
"""

import asyncio
import contextlib
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.saving import Result, save
from src.generation.engines.server_process import free_port

SEED, TIMEOUT_S = 7, 180.0
LEAVING, MALFORMED = 0.2, 0.15  # shares of the requests
SETTINGS = ("engine=llamacpp", "max_parallel=8", "context_length=512", "max_waiting=20")
TEXT = "The quick brown fox went over the hill and saw "
BAD: list[tuple[str, bytes]] = [
    ("/v1/chat/completions", b"{"),
    ("/v1/chat/completions", b'{"messages": 7}'),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "temperature": "hot"}'),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "' + b"word " * 2000 + b'"}]}'),
    ("/v1/completions", b'{"prompt": [99999999]}'),
    ("/v1/completions", b'{"prompt": "a", "model": "nobody"}'),
    ("/v1/completions", b"\x00\xff" * 100),
    ("/v1/completions", b'{"prompt": "' + b"x" * 2_000_000 + b'"}'),
    ("/generate", b'{"instruction": "a"}'),
    ("/nowhere", b"{}"),
]


@dataclass
class Seen:
    """What became of the requests."""

    ids: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    refused: int = 0
    stuck: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def plan(random_: random.Random) -> tuple[str, bytes, float | None, bool]:
    """Path, body, seconds after which the client leaves (None: never), and whether the answer is a stream."""
    if random_.random() < MALFORMED:
        return (*random_.choice(BAD), None, False)
    prompt, stream = TEXT * random_.randint(1, 8), random_.random() < 0.5
    common: dict[str, Any] = {"max_tokens": random_.randint(1, 24), "temperature": random_.choice((0, 0.8))}
    leaves = random_.uniform(0.0, 3.0) if random_.random() < LEAVING else None
    kind = random_.random()
    if kind < 0.5:
        messages = [{"role": "user", "content": prompt}]
        path, body = "/v1/chat/completions", {"messages": messages, "stream": stream, **common}
    elif kind < 0.85:
        path, body = "/v1/completions", {"prompt": prompt, "n": random_.choice((1, 1, 2)), "stream": stream, **common}
    else:
        path, body = "/generate", {"instruction": prompt, "input": "", "parameters": common, "stream": stream}
    return path, json.dumps(body).encode(), leaves, stream


async def ask(client: httpx.AsyncClient, number: int, random_: random.Random, seen: Seen) -> None:
    """Send one request, as often as it is told to come again, and see it to its end."""
    path, content, leaves_s, stream = plan(random_)
    end = time.monotonic() + TIMEOUT_S
    for attempt in itertools.count():
        identity = f"soak-{number}.{attempt}"
        headers = {"content-type": "application/json", "x-request-id": identity}
        seen.ids.add(identity)
        try:
            async with asyncio.timeout(leaves_s if leaves_s is not None else end - time.monotonic()):
                response = await client.post(path, content=content, headers=headers)
        except TimeoutError:
            if leaves_s is None:
                seen.stuck.append(identity)
            else:
                seen.left.add(identity)
            return
        except httpx.HTTPError as error:
            if not refused_early(content):
                seen.broken.append(f"{identity}: {error!r}")
            return
        if response.status_code != 429:
            break
        seen.refused += 1
        await asyncio.sleep(int(response.headers["retry-after"]))
    if not is_whole(response.text, stream and response.status_code == 200):
        seen.broken.append(f"{identity}: ends with {response.text[-200:]!r}")


def is_whole(text: str, stream: bool) -> bool:
    """Whether an answer came to its end."""
    if stream:
        return text.endswith("data: [DONE]\n\n")
    try:
        return bool(json.loads(text))
    except json.JSONDecodeError:
        return False


def refused_early(content: bytes) -> bool:
    """Whether the server may close the connection while this body is still on its way."""
    return len(content) > 1 << 20


async def soak(url: str, count: int, concurrency: int, processes: list[psutil.Process]) -> tuple[Seen, list[list[int]]]:
    """All requests; returns what was seen, and the memory of each process over time in bytes."""
    seen, memory, left = Seen(), [[] for _ in processes], iter(range(count))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)

    async def sample() -> None:
        while True:
            for series, process in zip(memory, processes, strict=True):
                series.append(process.memory_info().rss)
            await asyncio.sleep(0.5)

    async def worker() -> None:
        for number in left:
            await ask(client, number, random.Random(SEED * 1_000_003 + number), seen)

    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None) as client:
        sampling = asyncio.create_task(sample())
        try:
            await asyncio.gather(*(worker() for _ in range(concurrency)))
        finally:
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling  # raises where a process has ended
    return seen, memory


def growth_mb(series: list[int]) -> float:
    """Median of the last quarter over that of the second, in MB."""
    quarter = len(series) // 4
    return (statistics.median(series[-quarter:]) - statistics.median(series[quarter : 2 * quarter])) / 1e6


def metric(url: str, name: str) -> float:
    """Sum over the labels of one of the server's metrics."""
    rows = [line.rsplit(" ", 1) for line in httpx.get(url + "/metrics").text.splitlines() if line[:1] != "#"]
    return sum(float(value) for label, value in rows if label.partition("{")[0] == name)


def idle_cpu_s(process: psutil.Process, seconds: float = 3.0) -> float:
    """Processor seconds that a process uses while nobody asks."""
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return sum(process.cpu_times()[:2]) - before


def main() -> None:
    count, concurrency = (int(value) for value in (*sys.argv[1:], *("1000", "32")[len(sys.argv) - 1 :]))
    folder = Path(tempfile.mkdtemp(prefix="knowlm-soak-"))
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", folder / "access.jsonl"
    with (folder / "stderr.txt").open("wb") as errors:
        command = [sys.executable, "scripts/serve.py", f"port={port}", f"log_file={log}", *SETTINGS]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        while "serving " not in (folder / "stderr.txt").read_text():
            if server.poll() is not None:
                sys.exit((folder / "stderr.txt").read_text())
            time.sleep(0.2)
        gateway = psutil.Process(server.pid)
        engine = next(child for child in gateway.children() if "llamacpp_server" in " ".join(child.cmdline()))
        began = time.perf_counter()
        seen, memory = asyncio.run(soak(url, count, concurrency, [gateway, engine]))
        took = time.perf_counter() - began
        time.sleep(1)
        still = metric(url, "knowlm_running") + metric(url, "knowlm_waiting")
        tokens, idle = metric(url, "knowlm_generation_tokens_total"), idle_cpu_s(engine)
        lines = Counter(json.loads(line)["request_id"] for line in log.read_text().splitlines())
        status = [json.loads(line) for line in log.read_text().splitlines()]
    finally:
        server.terminate()
        server.wait(60)
    # Who leaves before the server has read anything leaves no line.
    lost = [name for name in seen.ids if lines[name] != 1 and not (name in seen.left and lines[name] == 0)]
    logged = Counter(line["status"] for line in status if line["request_id"] in seen.ids)
    shown = ", ".join(f"{code}: {number}" for code, number in sorted(logged.items()))
    note = (
        f"{concurrency} at a time, {took:.0f} s, {tokens:.0f} tokens; {len(seen.left)} clients left, {seen.refused} "
        f"times one was told to come again; statuses in the log: {shown}"
    )
    failures = sum(number for code, number in logged.items() if code >= 500)
    grown = "resident memory of the last quarter over the second; at the end {:.0f} MB"
    rows = [
        ("soak.requests", count, "requests", note),
        ("soak.lost", len(lost), "requests", "without one line in the access log, though the server read them"),
        ("soak.stuck", len(seen.stuck) + still, "requests", f"no answer within {TIMEOUT_S:g} s, or running afterwards"),
        ("soak.broken", len(seen.broken), "requests", "answers that did not end as they should"),
        ("soak.server_errors", failures, "requests", "statuses of 500 and above"),
        ("soak.engine_idle_cpu", round(idle, 3), "s", "processor time of the engine in 3 s after the last request"),
        ("soak.gateway_growth", round(growth_mb(memory[0]), 2), "MB", grown.format(memory[0][-1] / 1e6)),
        ("soak.engine_growth", round(growth_mb(memory[1]), 2), "MB", grown.format(memory[1][-1] / 1e6)),
    ]
    results = [Result(name, value, None, None, None, unit, text) for name, value, unit, text in rows]
    table = Table("metric", "value", "unit", "note")
    for result in results:
        table.add_row(result.metric, f"{result.ours:g}", result.unit, result.note)
    Console().print(table)
    for problem in [*lost, *seen.stuck, *seen.broken][:20]:
        print(problem)
    save("soak", [asdict(result) for result in results], ("fastapi", "uvicorn", "xllamacpp", "httpx"))
    if lost or seen.stuck or still or seen.broken or failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
