#!/usr/bin/env python
"""How fast the quality rules are beside datatrove's stock filters, in MB of text a CPU-second, one process.

    python benchmarks/cleaning.py CORPUS_FOLDER [--mb 2] [--repeats 3] [--source zh en] [--peers SITE_PACKAGES]

CORPUS_FOLDER holds ``<source>.jsonl.gz`` with a ``text`` a line. The peers are Gopher repetition, Gopher quality, C4,
and FineWeb as datatrove has them, one after the other, each on what the one before has left; ours is one step with
the same thresholds. The peers split words with spaCy and, for Chinese, jieba: where these are not installed, give the
``site-packages`` folder of an environment that has them. Ours and theirs take turns; loading is left out of both. The
whole ``cleaning=standard`` of each language is timed as well.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "DATATROVE_COLORIZE_LOGS": "0"}

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import orjson
from datatrove.data import Document
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from saving import save

from src.corpus.cleaning.prose import ProseQuality

LANGUAGES = {"zh": "cmn_Hani", "en": "eng_Latn"}  # as datatrove names them
PAPERS = {  # the thresholds that datatrove's filters have by default, and with them the same rules
    "min_words": 50,
    "max_words": 100_000,
    "min_mean_word_length": 3,
    "max_mean_word_length": 10,
    "max_symbols_per_word": 0.1,
    "max_bullet_lines": 0.9,
    "max_ellipsis_lines": 0.3,
    "min_alphabetic_words": 0.8,
    "min_stop_words": 2,
    "min_sentence_marks": 5,
    "max_lorem_ipsum": 0,
    "max_curly_brackets": 0,
    "max_notice_lines": 0.4,
    "min_punctuated_lines": 0.12,
    "max_short_lines": 0.67,
    "max_line_breaks_per_word": 0.3,
    "max_duplicate_lines": 0.3,
    "max_duplicate_line_characters": 0.01,
    "max_duplicate_paragraphs": 0.3,
    "max_duplicate_paragraph_characters": 0.2,
    "max_top_2gram": 0.2,
    "max_top_3gram": 0.18,
    "max_top_4gram": 0.16,
} | {f"max_duplicate_{n}gram": (20 - n) / 100 for n in range(5, 11)}


def read_texts(file: Path, megabytes: float) -> list[str]:
    """The first texts of a file, so many MB of them."""
    texts: list[str] = []
    size = 0
    with gzip.open(file) as lines:
        for line in lines:
            texts.append(orjson.loads(line)["text"])
            size += len(texts[-1].encode())
            if size >= megabytes * 1e6:
                break
    return texts


def documents(texts: list[str]) -> list[Document]:
    """Fresh documents, since filters change them."""
    return [Document(text=text, id=str(index)) for index, text in enumerate(texts)]


def our_seconds(texts: list[str], step: Callable[[], ProseQuality]) -> float:
    """CPU time of our step on all texts."""
    data, made = documents(texts), step()
    start = time.process_time()
    for _ in made.run(iter(data)):
        pass
    return time.process_time() - start


def peer_filters(language: str) -> list:
    """datatrove's filters, warmed up."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    kinds = (GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter, FineWebQualityFilter)
    filters = [kind(language=LANGUAGES[language]) for kind in kinds]
    for each in filters:
        each.filter(Document(text="A line to load the tokenizer with. 一行。", id="0"))
    return filters


def peer_seconds(texts: list[str], filters: list, *, all_of_them: bool) -> float:
    """CPU time of the peers, each on what is left by those before, or on all texts."""
    data = documents(texts)
    start = time.process_time()
    for document in data:
        for each in filters:
            kept = each.filter(document)
            if kept is not True and not all_of_them:
                break
    return time.process_time() - start


def standard_seconds(texts: list[str], language: str) -> float:
    """CPU time of the whole standard cleaning of a language."""
    config = OmegaConf.create(
        {"paths": {"root_dir": str(ROOT)}, "cleaning": OmegaConf.load(ROOT / "configs/cleaning/standard.yaml")}
    )
    steps = list(instantiate(config.cleaning[language]).values())
    data = iter(documents(texts))
    for step in steps:
        data = step.run(data)
    start = time.process_time()
    for _ in data:
        pass
    return time.process_time() - start


def compare(source: str, texts: list[str], repeats: int) -> dict:
    """Ours and the peers in turn on the same texts."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    filters = peer_filters(source)
    our_seconds(texts[:10], lambda: ProseQuality(source, **PAPERS))  # type: ignore[arg-type]
    times = []
    for _ in range(repeats):
        ours = our_seconds(texts, lambda: ProseQuality(source, **PAPERS))  # type: ignore[arg-type]
        peers = [peer_seconds(texts, filters, all_of_them=each) for each in (False, True)]
        times.append((ours, *peers))
    ours, peer, peer_all = (megabytes / statistics.median(column) for column in zip(*times, strict=True))
    return {
        "metric": f"cleaning.vs_datatrove.{source}",
        "ours": ours,
        "peer": peer,
        "peer_name": f"datatrove {version('datatrove')} Gopher repetition, Gopher quality, C4, FineWeb",
        "ratio": ours / peer,
        "unit": "MB/CPU-s",
        "note": f"{megabytes:.1f} MB, {len(texts)} documents; the peers stop at the first drop of a document, "
        f"{peer_all:.2f} MB/CPU-s when each sees all",
    }


def standard(source: str, texts: list[str], repeats: int) -> dict:
    """The standard cleaning of a language, alone."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    standard_seconds(texts[:10], source)
    speed = megabytes / statistics.median(standard_seconds(texts, source) for _ in range(repeats))
    note = f"cleaning=standard, all steps, {megabytes:.1f} MB"
    return {"metric": f"cleaning.standard.{source}", "ours": speed, "unit": "MB/CPU-s", "note": note}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--source", nargs="+", default=["zh", "en", "code"])
    parser.add_argument("--peers", type=Path, help="site-packages with spacy and jieba")
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    table = Table("metric", "ours MB/CPU-s", "datatrove", "ratio", title="cleaning")
    results = []
    for source in arguments.source:
        texts = read_texts(arguments.corpora / f"{source}.jsonl.gz", arguments.mb)
        if source in LANGUAGES:
            results.append(compare(source, texts, arguments.repeats))
        results.append(standard(source, texts, arguments.repeats))
    for result in results:
        numbers = [f"{result[key]:.2f}" if key in result else "" for key in ("ours", "peer", "ratio")]
        table.add_row(result["metric"], *numbers)
    Console().print(table)
    save("cleaning", results, ("datatrove", "numpy"))


if __name__ == "__main__":
    main()
