#!/usr/bin/env python
"""How fast token shards open and are read, and how fast and how full their segments are packed.

    python benchmarks/reading.py [--shards data/shards/zh_en_code] [--segments 10000000] [--repeats 3]

Opening and reading are compared with Megatron-core's ``IndexedDataset`` on the same files, each in a process of its
own, the two in turns. Opening: an index of so many segments beside a sparse ``.bin``; the memory is what the process
has for itself (private pages) after it less before it. Reading: batches of 20 segments of 1024 tokens at random as one
int64 tensor, out of a gigabyte in the page cache; samples a CPU-second.

Packing takes the lengths of real segments, drawn with replacement to the number asked for, or log-normal ones where no
shards are given; its peer is KnowLM's one segment a row. Needs about 1.3 GB of disk in the temporary folder.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from saving import save

BATCH = 20
LENGTH = 1024
READ_TOKENS = 1 << 29  # a gigabyte of uint16
READERS = ("ours", "megatron")
PEER = "megatron-core IndexedDataset, mmap"

Result = dict[str, Any]


def index_open(segments: int = 10_000_000, repeats: int = 3) -> list[Result]:
    """Milliseconds and private megabytes to open an index of so many segments."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "index"
        write_sparse(prefix, log_normal(segments))
        runs = in_turns("open", prefix, repeats)
    note = f"{segments / 1e6:g} M segments, median of {repeats} processes"
    return [
        compared("corpus.index_open_ms", runs, "ms", "ms", note),
        compared("corpus.index_open_mb", runs, "mb", "MB", f"{note}, private pages"),
    ]


def random_read(tokens: int = READ_TOKENS, repeats: int = 3) -> list[Result]:
    """Samples of 1024 tokens a CPU-second, in random batches of 20 as one int64 tensor."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "tokens"
        write_random(prefix, tokens)
        runs = in_turns("read", prefix, repeats)
    note = f"batches of {BATCH} x {LENGTH}, {2 * tokens / 1e9:.2f} GB in the page cache, median of {repeats}"
    return [
        compared("corpus.random_read_per_s", runs, "per_s", "samples/CPU-s", note),
        compared("corpus.random_read_mb", runs, "mb", "MB", "private dirty memory left by 200 k random reads"),
    ]


def packing(name: str, lengths: np.ndarray, max_length: int, segments: int = 10_000_000) -> list[Result]:
    """How full best-fit-decreasing fills rows with the segments of a source, and how fast it plans many of them."""
    from src.shards.packing import pack

    fill = float(lengths.sum()) / (len(pack(lengths, max_length)) * max_length)
    alone = float(lengths.mean()) / max_length
    many = np.random.default_rng(0).choice(lengths, segments)
    start = time.process_time()
    rows = pack(many, max_length)
    seconds = time.process_time() - start
    full = float(many.sum()) / (len(rows) * max_length)
    note = f"{segments / 1e6:g} M segments drawn from these lengths in {seconds:.1f} CPU-s, {full:.2%} full"
    peer = {"peer": alone, "peer_name": "one segment a row (KnowLM)", "ratio": fill / alone}
    return [
        {"metric": f"corpus.packing_fill.{name}", "ours": fill, **peer, "unit": "", "note": f"{len(lengths)} segments"},
        {"metric": f"corpus.packing_segments_per_s.{name}", "ours": segments / seconds, "unit": "1/s", "note": note},
    ]


def log_normal(segments: int) -> np.ndarray:
    """Lengths like those of short documents, int32."""
    return np.clip(np.random.default_rng(0).lognormal(5, 0.7, segments), 16, LENGTH).astype(np.int32)


def write_sparse(prefix: Path, lengths: np.ndarray) -> None:
    """A shard of so many segments whose ids are a hole in the file."""
    from src.shards.format import CODES, HEADER, MAGIC, VERSION, shard_file

    offsets = np.cumsum(lengths, dtype=np.int64) * 2
    with shard_file(prefix, ".idx").open("wb") as index:
        index.write(HEADER.pack(MAGIC, VERSION, CODES[np.dtype(np.uint16)], len(lengths), 2))
        for array in (lengths, offsets - 2 * lengths, np.array([0, len(lengths)], np.int64)):
            array.tofile(index)
    with shard_file(prefix, ".bin").open("wb") as tokens:
        tokens.truncate(int(offsets[-1]))


def write_random(prefix: Path, tokens: int) -> None:
    """A shard of segments of 1024 random ids, one a document."""
    from src.shards.format import ShardWriter

    rng = np.random.default_rng(0)
    with ShardWriter(prefix, np.uint16) as writer:
        for _ in range(tokens // (LENGTH * 1024)):
            block = rng.integers(0, 32000, (1024, LENGTH), dtype=np.uint16)
            for row in block:
                writer.add_document([row])


def in_turns(what: str, prefix: Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Measurements of both readers, each of them in a fresh process."""
    runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
    for _ in range(repeats):
        for reader in READERS:
            arguments = [sys.executable, "-W", "ignore", __file__, "--child", what, reader, str(prefix)]
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{reader} failed: {done.stderr[-2000:]}")
            runs[reader].append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def compared(metric: str, runs: dict[str, list[dict[str, float]]], key: str, unit: str, note: str) -> Result:
    """Medians of one measurement."""
    ours, peer = (statistics.median(run[key] for run in runs[reader]) for reader in READERS)
    ratio = ours / peer if peer else None
    return {
        "metric": metric,
        "ours": ours,
        "peer": peer,
        "peer_name": PEER,
        "ratio": ratio,
        "unit": unit,
        "note": note,
    }


def opener(reader: str) -> Any:
    """What opens a prefix; imports are not measured."""
    if reader == "ours":
        from src.shards.format import Shard

        return Shard
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return lambda prefix: IndexedDataset(prefix, mmap=True)


def measure_open(reader: str, prefix: str) -> dict[str, float]:
    """In the child: the first opening counts for memory, the median of twenty for time."""
    open_shard = opener(reader)
    before = private_mb()
    first = open_shard(prefix)
    grown = private_mb() - before
    times = []
    for _ in range(20):
        start = time.perf_counter()
        open_shard(prefix)
        times.append(time.perf_counter() - start)
    del first
    return {"ms": statistics.median(times) * 1e3, "mb": grown}


def measure_read(reader: str, prefix: str) -> dict[str, float]:
    """In the child: batches into one tensor that is kept, the best way each reader has."""
    import torch

    shard = opener(reader)(prefix)
    batch = torch.empty((BATCH, LENGTH), dtype=torch.int64)
    rows = batch.numpy()
    picks = np.random.default_rng(1).integers(0, len(shard), (10_000, BATCH))

    def ours(indices: np.ndarray) -> None:
        shard.gather(indices, LENGTH, out=rows)

    def megatron(indices: np.ndarray) -> None:
        for row, index in enumerate(indices.tolist()):
            rows[row] = shard[index]

    read = ours if reader == "ours" else megatron
    for indices in picks[:500]:
        read(indices)
    before = private_mb(dirty=True)
    rates = []
    for part in np.split(picks, 5):
        start = time.process_time()
        for indices in part:
            read(indices)
        rates.append(part.size / (time.process_time() - start))
    return {"per_s": statistics.median(rates), "mb": private_mb(dirty=True) - before}


def private_mb(dirty: bool = False) -> float:
    """Memory that this process shares with no other; of it, what it has written to."""
    wanted = ("Private_Dirty:",) if dirty else ("Private_Dirty:", "Private_Clean:")
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) * 1024 / 1e6


def real_lengths(shards: Path | None) -> dict[str, tuple[np.ndarray, int]]:
    """Lengths of the training segments of each source, and what they may have at most."""
    if shards is None:
        return {"log_normal": (log_normal(100_000), LENGTH)}
    from src.shards.source import Source

    sources = [Source.open(path.parent) for path in sorted(shards.glob("*/manifest.json"))]
    return {source.name: (np.asarray(source.lengths), source.manifest.max_length) for source in sources}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--segments", type=int, default=10_000_000)
    parser.add_argument("--read-tokens", type=int, default=READ_TOKENS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, reader, prefix = arguments.child
        print(json.dumps({"open": measure_open, "read": measure_read}[what](reader, prefix)))
        return
    results = index_open(arguments.segments, arguments.repeats)
    results += random_read(arguments.read_tokens, arguments.repeats)
    for name, (lengths, max_length) in real_lengths(arguments.shards).items():
        results += packing(name, lengths, max_length, arguments.segments)
    report(results)


def report(results: list[Result]) -> None:
    """Print the results and write ``benchmarks/results/reading.json``."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "ours", "peer", "ratio", "unit")
    for result in results:
        numbers = [result.get(key) for key in ("ours", "peer", "ratio")]
        cells = ["–" if number is None else f"{number:,.3f}" for number in numbers]
        table.add_row(result["metric"], *cells, result["unit"])
    Console().print(table)
    save("reading", results, ("numpy", "megatron-core"))


if __name__ == "__main__":
    main()
