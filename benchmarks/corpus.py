#!/usr/bin/env python
"""How fast raw text becomes token shards: MB of text a CPU-second and core, beside the bare tokenizer on the same text.

    python benchmarks/corpus.py TOKENIZER CORPUS_FOLDER [--mb 4] [--repeats 3] [--source zh en code]

CORPUS_FOLDER holds ``<source>.jsonl.gz`` with a ``text`` a line. The peer is the tokenizer's own library encoding the
same texts in batches and keeping nothing: no pipeline on that tokenizer can be faster. Ours reads, tokenizes, finds the
sentences, cuts the segments and writes the shards; loading the tokenizer is left out of both. One process, one thread.
"""

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from src.corpus.readers import Document, read_documents
from src.corpus.segment import BATCH_BYTES
from src.corpus.worker import Job, Reading, run_worker
from src.models.tokenizer import TextEncoder, open_encoder


def sample(file: Path, megabytes: float) -> list[Document]:
    """The first documents of a file, so many MB of them."""
    total = 0
    documents = []
    for document in read_documents([file]):
        documents.append(document)
        total += len(document.text.encode())
        if total >= megabytes * 1e6:
            break
    return documents


def peer_seconds(encoder: TextEncoder, documents: list[Document]) -> float:
    """CPU time of the bare engine."""
    start = time.process_time()
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document.text)
        size += len(document.text)
        if size >= BATCH_BYTES // 2:
            encoder.encode_batch(batch)
            batch, size = [], 0
    encoder.encode_batch(batch)
    return time.process_time() - start


def our_seconds(tokenizer: Path, language: str, file: Path) -> float:
    """CPU time of a whole worker pass, less the loading of the tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Reading((file,)), Path(folder), tokenizer, language, 1024, None, None, 0.01, 0.0)  # type: ignore[arg-type]
        start = time.process_time()
        open_encoder(tokenizer)
        middle = time.process_time()
        run_worker(job, 0)
        return time.process_time() - middle - (middle - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--source", nargs="+", default=["zh", "en", "code"])
    arguments = parser.parse_args()
    encoder = open_encoder(arguments.tokenizer)
    peer_name = "sentencepiece" if (arguments.tokenizer / "tokenizer.model").is_file() else "tokenizers"
    table = Table("source", "MB", "ours MB/CPU-s", f"{peer_name} alone", "ratio", title="raw text to token shards")
    results = []
    for source in arguments.source:
        documents = sample(arguments.corpora / f"{source}.jsonl.gz", arguments.mb)
        megabytes = sum(len(document.text.encode()) for document in documents) / 1e6
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source}.jsonl"
            lines = (json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in documents)
            file.write_text("".join(lines), encoding="utf-8")
            pairs = [
                (our_seconds(arguments.tokenizer, source, file), peer_seconds(encoder, documents))
                for _ in range(arguments.repeats)
            ]
        ours, peer = (megabytes / statistics.median(times) for times in zip(*pairs, strict=True))
        table.add_row(source, f"{megabytes:.1f}", f"{ours:.2f}", f"{peer:.2f}", f"{ours / peer:.2f}")
        results.append(
            {
                "metric": f"preprocess_{source}_{peer_name}",
                "ours": ours,
                "peer": peer,
                "peer_name": f"{peer_name} alone",
                "ratio": ours / peer,
                "unit": "MB/CPU-s",
                "note": f"{encoder.name}, {encoder.vocab_size} tokens, {megabytes:.1f} MB",
            }
        )
    Console().print(table)
    versions = {name: version(name) for name in ("tokenizers", "sentencepiece", "numpy", "orjson")}
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
        "results": results,
    }
    target = ROOT / "benchmarks" / "results" / f"corpus_{peer_name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
