#!/usr/bin/env python
"""How fast near-duplicates are found and left out: MB of text a CPU-second, beside datatrove's four MinHash steps.

    python benchmarks/dedup.py CORPUS_FOLDER [--mb 3] [--repeats 3] [--source zh en code]

CORPUS_FOLDER holds ``<source>.jsonl.gz`` with a ``text`` a line. Both sides get the same documents in memory, in two
parts, with 5-grams, 14 bands and 8 rows: signatures, buckets, clusters, filter; one process, one thread, tables and
tokenizers loaded before. Every third document comes once more with some of its words changed, which tells how many
pairs of a known Jaccard similarity each side finds.

The peer needs ``datatrove spacy jieba 'xxhash<4'`` (with xxhash 4 its hashing raises a TypeError); where they are
missing it is left out. Its word tokenizer is the one it assigns to the language (spaCy, for Chinese with jieba). It
runs a second time with one regular expression in that place, which tells how much of the difference is not the
tokenizer.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import argparse
import gzip
import json
import logging
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from datatrove.data import Document
from rich.console import Console
from rich.table import Table
from saving import save

from src.corpus.dedup.apply import DropDuplicates
from src.corpus.dedup.buckets import FindDuplicates
from src.corpus.dedup.records import open_records
from src.corpus.dedup.resolve import DROPPED_DOCUMENT, ResolveDuplicates, dropped_documents_file
from src.corpus.dedup.settings import DedupSettings, MinHashSettings
from src.corpus.dedup.signatures import StoreSignatures

PARTS = 2
SETTINGS = DedupSettings(minhash=MinHashSettings(ngram=5, bands=14, rows=8))
WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
PEER_LANGUAGES = {"zh": "zho_Hani", "en": "eng", "code": "eng"}
COPY_WORDS = (50, 5000)  # words of the documents that are copied
COPY_EVERY = 3
SIMILAR = 0.8
STOCK, PLAIN = "datatrove", "datatrove, words by one regular expression"
Place = tuple[int, int]


@dataclass
class Sample:
    """Texts by part, and the injected pairs: original, copy, Jaccard similarity of their 5-grams."""

    parts: list[list[str]]
    pairs: list[tuple[Place, Place, float]]

    @property
    def megabytes(self) -> float:
        return sum(len(text.encode()) for texts in self.parts for text in texts) / 1e6

    def documents(self, part: int) -> list[Document]:
        return [Document(text, f"{part}:{index}") for index, text in enumerate(self.parts[part])]


def take_sample(file: Path, megabytes: float) -> Sample:
    """The first documents of a file, in turn to each part, and the changed copies behind them in the next part."""
    generator = random.Random(0)
    sample = Sample([[] for _ in range(PARTS)], [])
    copies = []
    total = 0
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            text = json.loads(line)["text"]
            place = (number % PARTS, len(sample.parts[number % PARTS]))
            sample.parts[place[0]].append(text)
            total += len(text.encode())
            words = [match.span() for match in WORD.finditer(text)]
            if number % COPY_EVERY == 0 and COPY_WORDS[0] <= len(words) <= COPY_WORDS[1]:
                changed = change(text, words, generator)
                copies.append((place, changed, jaccard(text, changed)))
            if total >= megabytes * 1e6:
                break
    for place, text, similarity in copies:
        part = (place[0] + 1) % PARTS
        sample.pairs.append((place, (part, len(sample.parts[part])), similarity))
        sample.parts[part].append(text)
    return sample


def change(text: str, words: list[tuple[int, int]], generator: random.Random) -> str:
    """Replace up to 5 % of the words of a text, each of which moves five of its 5-grams."""
    count = generator.randint(0, len(words) // 20)
    for start, end in sorted(generator.sample(words, count), reverse=True):
        text = text[:start] + ("某" if end == start + 1 else "changed") + text[end:]
    return text


def jaccard(left: str, right: str) -> float:
    first, second = (set(zip(*(words[i:] for i in range(5)), strict=False)) for words in map(words_of, (left, right)))
    return len(first & second) / len(first | second)


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def ours(sample: Sample) -> tuple[float, dict[Place, object]]:
    """CPU time of all passes, and the cluster of each document that is in one."""
    documents = [sample.documents(part) for part in range(PARTS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.process_time()
        for part in range(PARTS):
            drain(StoreSignatures(folder, SETTINGS).run(documents[part], part, PARTS))
        for bucket in range(PARTS):
            FindDuplicates(folder, SETTINGS, PARTS, PARTS).run(None, bucket, PARTS)
        ResolveDuplicates(folder, SETTINGS, ["source"] * PARTS, PARTS).run()
        for part in range(PARTS):
            drain(DropDuplicates(folder).run(documents[part], part, PARTS))
        seconds = time.process_time() - start
        clusters: dict[Place, object] = {}
        for part in range(PARTS):
            for document, _, kept in open_records(dropped_documents_file(folder, part), DROPPED_DOCUMENT).tolist():
                root = divmod(kept, 1 << 32)
                clusters[part, document] = clusters[root] = root
    return seconds, clusters


def peer(sample: Sample, tokenizer: object) -> tuple[float, dict[Place, object]]:
    """The same of datatrove."""
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    documents = [sample.documents(part) for part in range(PARTS)]
    with tempfile.TemporaryDirectory() as name:
        signatures, buckets, removed = (f"{name}/{folder}" for folder in ("signatures", "buckets", "removed"))
        start = time.process_time()
        for part in range(PARTS):
            MinhashDedupSignature(signatures, config, tokenizer).run(documents[part], part, PARTS)
        for bucket in range(config.num_buckets):
            MinhashDedupBuckets(signatures, buckets, config=config).run(None, bucket, config.num_buckets)
        MinhashDedupCluster(buckets, removed, config, save_cluster_id=True).run(None, 0, 1)
        for part in range(PARTS):
            drain(MinhashDedupFilter(removed).run(documents[part], part, PARTS))
        seconds = time.process_time() - start
        clusters: dict[Place, object] = {}
        for part in range(PARTS):
            file = Path(removed, f"{part:06d}.clusters")
            for document, cluster in np.fromfile(file, "<u4").reshape(-1, 2).tolist() if file.is_file() else ():
                clusters[part, document] = cluster
    return seconds, clusters


def drain(documents) -> None:  # type: ignore[no-untyped-def]
    for _ in documents:
        pass


def peer_tokenizers(source: str) -> dict[str, object]:
    """The peer's word tokenizer for a source and the plain one, loaded and tried; none where it cannot run."""
    try:
        import jieba
        from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
        from datatrove.utils.logging import logger
        from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

        logger.remove()
        jieba.setLogLevel(logging.WARNING)

        class RegexWords(WordTokenizer):
            """Words as `WORD` finds them, and nothing else."""

            def word_tokenize(self, text: str) -> list[str]:
                return WORD.findall(text)

            def sent_tokenize(self, text: str) -> list[str]:
                return [text]

            def span_tokenize(self, text: str) -> list[tuple[int, int]]:
                return [(0, len(text))]

        tokenizers = {STOCK: load_word_tokenizer(PEER_LANGUAGES[source]), PLAIN: RegexWords()}
        for tokenizer in tokenizers.values():
            MinhashDedupSignature(tempfile.gettempdir(), None, tokenizer).get_shingles("one two three 今天 four five")
    except (ImportError, TypeError) as error:
        print(f"datatrove's steps are left out: {error}", file=sys.stderr)
        return {}
    return tokenizers


def quality(sample: Sample, clusters: dict[Place, object]) -> str:
    """Recall and precision over the injected pairs."""
    found = [
        similarity
        for left, right, similarity in sample.pairs
        if left in clusters and clusters[left] == clusters.get(right)
    ]
    similar = sum(similarity >= SIMILAR for _, _, similarity in sample.pairs)
    hits = sum(similarity >= SIMILAR for similarity in found)
    return f"recall {hits / max(similar, 1):.3f}, precision {hits / max(len(found), 1):.3f}"


def measure(source: str, sample: Sample, repeats: int, table: Table) -> list[dict[str, object]]:
    """Run everything interleaved; one result for each peer, or one without."""
    tokenizers = peer_tokenizers(source)
    runs: dict[str, Callable[[], tuple[float, dict[Place, object]]]] = {"ours": lambda: ours(sample)}
    for name, tokenizer in tokenizers.items():
        runs[name] = lambda tokenizer=tokenizer: peer(sample, tokenizer)
    ours(Sample([["some words to load the tables"], [""]], []))
    times: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, str] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds, clusters = run()
            times[name].append(seconds)
            found[name] = quality(sample, clusters)
    rates = {name: sample.megabytes / statistics.median(values) for name, values in times.items()}
    similar = sum(similarity >= SIMILAR for _, _, similarity in sample.pairs)
    results = []
    for name in list(tokenizers) or [None]:
        ratio = rates["ours"] / rates[name] if name else None
        rate = f"{rates[name]:.2f}" if name else "-"
        table.add_row(
            source, name or "-", f"{rates['ours']:.1f}", rate, f"{ratio:.1f}" if ratio else "-", found["ours"],
            found.get(name or "", "-"),
        )  # fmt: skip
        suffix = "_regex_words" if name == PLAIN else ""
        results.append(
            {
                "metric": f"corpus.dedup_vs_datatrove{suffix}.{source}",
                "ours": rates["ours"],
                "peer": rates[name] if name else None,
                "peer_name": name,
                "ratio": ratio,
                "unit": "MB/CPU-s",
                "note": f"{sample.megabytes:.1f} MB, {len(sample.pairs)} injected pairs, {similar} of J >= {SIMILAR}; "
                f"ours: {found['ours']}" + (f"; peer: {found[name]}" if name else ""),
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--source", nargs="+", default=["zh", "en", "code"], choices=list(PEER_LANGUAGES))
    arguments = parser.parse_args()
    table = Table("source", "peer", "ours MB/CPU-s", "peer", "ratio", "ours", "peer", title="MinHash deduplication")
    results = []
    for source in arguments.source:
        sample = take_sample(arguments.corpora / f"{source}.jsonl.gz", arguments.mb)
        results += measure(source, sample, arguments.repeats, table)
    Console().print(table)
    save("dedup", results, ("numpy", "datatrove", "spacy", "jieba", "xxhash"))


if __name__ == "__main__":
    main()
