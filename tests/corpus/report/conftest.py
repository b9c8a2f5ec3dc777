"""A report in which everything that can happen to a document has happened."""

import numpy as np
import pytest

from src.corpus.report import (
    BadExample,
    BadRecords,
    CorpusReport,
    DuplicateExample,
    Duplicates,
    Histogram,
    SourceReport,
)
from src.corpus.steps import Dropped, StepReport
from src.shards.manifest import Counts


def dropped(documents: int, size: int, why: str, text: str) -> Dropped:
    examples = [{"id": f"part-0.jsonl.gz:{i}", "why": why, "text": text} for i in range(min(documents, 5))]
    return Dropped(documents, size, examples)


def make_source(name: str = "zh", text: str = "床前明月光，疑是地上霜。") -> SourceReport:
    random = np.random.default_rng(3)
    lengths = np.minimum(random.lognormal(5, 1.6, 8560).astype(int) + 2, 400_000)
    segments = np.concatenate([np.append(np.full(n // 1024, 1000), n % 1024 + 1) for n in lengths])
    sizes = np.bincount([int(n).bit_length() for n in lengths], minlength=40).tolist()
    bins = np.bincount((np.minimum(segments, 1024) - 1) * 64 // 1024, minlength=64).tolist()
    twins = Histogram.of_sizes([0, 0, 260, 22, 9, 1])
    return SourceReport(
        name=name,
        language="zh",
        max_length=1024,
        files=3,
        input_bytes=5_400_000,
        records=10_000,
        bad={
            "not JSON": BadRecords(7, [BadExample("part-1.jsonl.gz", "17", "not JSON")]),
            "no text": BadRecords(3, [BadExample("part-2.jsonl.gz", "1021", "no text")]),
        },
        replaced=4,
        lost_bytes=1_234,
        empty=10,
        steps=[
            StepReport(
                "normalise",
                9_980,
                16_000_000,
                9_940,
                15_900_000,
                812,
                {"mojibake": dropped(40, 30_000, "7.1 % replacement characters, at most 5 %", "Ã¤Â½Â å¥½")},
                {"control_characters": 1_433},
            ),
            StepReport(
                "quality",
                9_940,
                15_900_000,
                9_110,
                15_200_000,
                0,
                {
                    "too_short": dropped(790, 60_000, "12 characters, at least 20", text),
                    "repeated_lines": dropped(40, 640_000, "61 % of lines repeated, at most 30 %", text * 9),
                },
            ),
            StepReport("private", 9_110, 15_200_000, 9_110, 15_190_000, 64, counters={"e_mails": 101, "id_numbers": 5}),
        ],
        duplicates={
            "exact": Duplicates(400, 320_000, [DuplicateExample("a:9", "a:2", text)], twins),
            "near": Duplicates(150, 200_000, [DuplicateExample("b:1", "a:2", text)], Histogram.of_sizes([0, 0, 90, 7])),
            "repeated_paragraphs": Duplicates(1_204, 90_000, [DuplicateExample("b:7", "a:5", text)]),
        },
        splits={
            "train": Counts(8_500, 13_000, int(segments.sum() * 0.99), 14_000_000),
            "validation": Counts(60, 90, int(segments.sum() * 0.01), 140_000),
        },
        document_tokens=Histogram.of_sizes(sizes),
        segment_tokens=Histogram.of_lengths(1024, bins),
        packed_rows=int(segments.sum() * 0.99 / 1024 / 0.994),
        cpu_seconds=2.25,
    )


@pytest.fixture
def source() -> SourceReport:
    return make_source()


@pytest.fixture
def report() -> CorpusReport:
    return CorpusReport(
        corpus="zh_en_code",
        date="2025-11-22T14:00:00+00:00",
        seconds=12.5,
        cpu_seconds=20.25,
        executor="local, 2 workers",
        settings={"tokenizer": "mistral", "max_length": 1024, "inputs": ["数据.jsonl.gz"]},
        sources={name: make_source(name) for name in ("zh", "en", "code")},
    )
