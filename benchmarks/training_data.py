"""Small training sets with the lengths that real text has, for `benchmarks/training.py`.

Few segments, so that a short run reads every one of them exactly once, packed by us and padded by the peer: they are
chosen so that both make whole optimizer steps of them.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.datamodules.packed import PackedDataModule, Sources
from src.datamodules.sft import encode_records, read_records
from src.models.load import load_tokenizer
from src.models.spec import ModelSpec
from src.models.templates import load_template
from src.shards.format import ShardWriter
from src.shards.manifest import Counts
from src.shards.packing import pack
from src.shards.source import Source

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
HELD_OUT = 16  # segments or examples
STEP_TOLERANCE = 0.12  # how far apart, as a logarithm, the real tokens of our steps and the peer's may lie
CANDIDATES = 5000  # neighbourhoods of segments that are looked at
MOST_TOKENS_AT_ONCE = 4096  # of ours: rows of a micro-batch


@dataclass(frozen=True)
class Plan:
    """How one pass over a small set is cut into optimizer steps of about as many real tokens by us and by the peer.

    segments: which of those there are.
    steps, rows: our optimizer steps, and packed rows in each.
    micro_batch: rows that go through the model at once.
    peer_steps, peer_batch, peer_accumulation: the peer's steps, segments in a batch, and batches in a step.
    fill, peer_fill: share of positions that hold a real token: in packed rows, and in padded random batches, over the
        whole source and not only what of it is trained on.
    """

    segments: slice
    steps: int
    rows: int
    micro_batch: int
    peer_steps: int
    peer_batch: int
    peer_accumulation: int
    fill: float
    peer_fill: float


@dataclass(frozen=True)
class SmallSet:
    """A set to train on: ``replaced`` config groups or ``overrides`` that make ``train.py`` read it."""

    name: str
    what: str
    plan: Plan
    overrides: list[str]
    replaced: dict[str, Any]


def plan(lengths: NDArray[np.integer], max_length: int, batch: int, peer_steps: int) -> Plan:
    """Choose which of the segments, neighbours in their random order, are trained on.

    Of those that packing makes whole steps of, the ones whose packed rows and padded batches are about as full as the
    whole source's: few segments may by chance pack or pad far better or worse.

    Args:
        lengths: tokens of each segment there is, in random order.
        max_length: of a packed row.
        batch: segments that the peer pads and runs at once.
        peer_steps: optimizer steps of the peer that are wanted.
    """
    mean = float(lengths.mean())
    fill = float(lengths.sum() / max_length / len(pack(lengths, max_length)))
    for accumulation in (1, 2):
        rows = max(1, round(accumulation * batch * mean / (fill * max_length)))
        if abs(np.log(rows * fill * max_length / (accumulation * batch * mean))) < STEP_TOLERANCE:
            break
    size = peer_steps * accumulation * batch
    peer_fill = padded_fill(lengths, batch)
    found = []
    for first in range(min(len(lengths) - size + 1, CANDIDATES)):
        some = lengths[first : first + size]
        made = len(pack(some, max_length))
        if made % rows == 0:
            unlike = abs(np.log(some.sum() / max_length / made / fill)) + abs(
                np.log(padded_fill(some, batch) / peer_fill)
            )
            found.append((float(unlike), first, made))
    if not found:
        raise SystemExit(f"{len(lengths)} segments of {mean:.0f} tokens can't be shared out: give fewer --rounds")
    _, first, made = min(found)
    micro = max(m for m in range(1, rows + 1) if rows % m == 0 and (m == 1 or m * max_length <= MOST_TOKENS_AT_ONCE))
    chosen = slice(first, first + size)
    return Plan(chosen, made // rows, rows, micro, peer_steps, batch, accumulation, fill, peer_fill)


def padded_fill(lengths: NDArray[np.integer], batch: int) -> float:
    """Share of real tokens in batches that are padded to their longest segment, and that to a multiple of 8."""
    batches = lengths[: len(lengths) // batch * batch].reshape(-1, batch)
    return float(batches.sum() / (batch * (-(-batches.max(axis=1) // 8) * 8)).sum())


def pretraining_set(
    corpus: Path, language: str, short: bool, max_length: int, batch: int, peer_steps: int, scratch: Path
) -> SmallSet:
    """Segments of a JSONL corpus as ``scripts/preprocess.py`` cuts them, a random choice.

    Args:
        short: only documents that are one segment; else every document with all of its segments.
    """
    whole = scratch / f"all_{language}_{max_length}"
    if not whole.exists():
        _preprocess(corpus, language, max_length, whole)
    source = Source.open(whole / language, "train")
    chosen = np.fromiter(_segments(source, short), np.int64)
    chosen = np.random.default_rng(SEED).permutation(chosen)
    held_out, chosen = chosen[:HELD_OUT], chosen[HELD_OUT:]
    cut = plan(source.lengths_of(chosen), max_length, batch, peer_steps)
    name = f"{language}_short" if short else language
    shards = scratch / f"{name}_{max_length}_{cut.peer_steps}"
    _write(source, {"train": chosen[cut.segments], "validation": held_out}, shards / language)
    kind = "documents that are one segment" if short else "all documents"
    mean = float(source.lengths_of(chosen).mean())
    what = f"{kind} of {corpus.name}, segments of at most {max_length} tokens, {mean:.0f} on average"
    mix = {"shards_dir": str(shards), "sources": {language: 1.0}, "when_exhausted": "repeat"}
    return SmallSet(name, what, cut, ["data=pretrain", f"data.max_length={max_length}"], {"mix": mix})


def instruction_set(
    file: Path, spec: ModelSpec, max_length: int, batch: int, peer_steps: int, scratch: Path
) -> SmallSet:
    """Records of an instruction file, rendered by the model's own template, a random choice."""
    tokenizer = load_tokenizer(spec)
    template = load_template(spec.template, tokenizer)
    records = list(read_records(file))
    encoded, report = encode_records(file, records, template, tokenizer, max_length=1 << 20)
    if report.bad:
        raise SystemExit(f"{file} has malformed records, {report.first_bad}: mend or remove them")
    lengths = encoded.lengths
    order = np.random.default_rng(SEED).permutation(np.flatnonzero(lengths <= max_length))
    held_out, chosen = order[:HELD_OUT], order[HELD_OUT:]
    cut = plan(lengths[chosen], max_length, batch, peer_steps)
    folder = scratch / "instructions"
    folder.mkdir()
    files = {name: folder / f"{name}.jsonl" for name in ("train", "validation")}
    for name, indices in (("train", chosen[cut.segments]), ("validation", held_out)):
        lines = (json.dumps(records[index], ensure_ascii=False) + "\n" for index in indices)
        files[name].write_text("".join(lines), encoding="utf-8")
    what = f"{len(records)} records of {file.name}, {lengths.mean():.0f} tokens on average"
    overrides = ["data=sft", f"data.max_length={max_length}", *(f"data.{name}={path}" for name, path in files.items())]
    return SmallSet("instructions", what, cut, overrides, {})


class RandomTokens:
    """Segments of random ids, all of one length; a `Segments`."""

    def __init__(self, count: int, length: int, vocabulary_size: int) -> None:
        self.lengths = np.full(count, length, np.int32)
        self.ids = np.random.default_rng(0).integers(0, vocabulary_size, (count, length), np.int32)

    def tokens(self, index: int) -> np.ndarray:
        return self.ids[index]

    labels = tokens

    def loss_tokens(self, indices: np.ndarray) -> int:
        return len(indices) * (self.ids.shape[1] - 1)


class SyntheticDataModule(PackedDataModule):
    """Full rows of random token ids: speed without data.

    Args:
        model: not asked for anything.
        rows: how many different ones.
    """

    def __init__(self, model: ModelSpec, vocabulary_size: int, rows: int, **packed: Any) -> None:
        super().__init__(**packed)
        self.segments = RandomTokens(rows, self.max_length, vocabulary_size)

    def load(self) -> Sources:
        return Sources({"random": self.segments}, {"random": 1.0}, {})


def _preprocess(corpus: Path, language: str, max_length: int, output: Path) -> None:
    """Our command line on one file of texts, nothing left out of it."""
    command = [
        sys.executable,
        str(ROOT / "scripts" / "preprocess.py"),
        "corpus=zh_en_code",
        f"corpus.sources.{language}.path={corpus}",
        *(f"~corpus.sources.{other}" for other in ("zh", "en", "code") if other != language),
        f"max_length={max_length}",
        "model=smollm2_135m",
        "cleaning=none",
        "dedup=none",
        f"output_dir={output}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"scripts/preprocess.py failed on {corpus}: {done.stderr[-1000:]}")


def _segments(source: Source, short: bool) -> Iterator[int]:
    """Numbers of all segments, or of those that are a whole document."""
    first = 0
    for shard in source.shards:
        starts = shard.document_starts(0, shard.documents + 1)
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if end == begin + 1 or not short:
                yield from range(first + begin, first + end)
        first += len(shard)


def _write(source: Source, splits: dict[str, NDArray[np.int64]], folder: Path) -> None:
    """A source of its own with just these segments, each a document."""
    folder.mkdir(parents=True)
    counts: dict[str, Counts] = {}
    sums: dict[str, Any] = {}
    for split, indices in splits.items():
        with ShardWriter(folder / f"{split}-00000", source.shards[0].dtype) as writer:
            for index in indices:
                writer.add_document([source.segment(int(index))])
        sums |= writer.sums
        tokens = int(source.lengths_of(indices).sum())
        counts[split] = Counts(len(indices), len(indices), tokens, 0)
    manifest = source.manifest
    manifest.splits, manifest.files = counts, sums
    manifest.save(folder)


def corpus_file(folder: Path, language: str) -> Path:
    """``<folder>/<language>.jsonl.gz``, checked."""
    file = folder / f"{language}.jsonl.gz"
    if not file.is_file():
        raise SystemExit(f"no {file}: give --corpora a folder of <language>.jsonl.gz with a text a line")
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        if "text" not in json.loads(stream.readline()):
            raise SystemExit(f"{file} has lines without a text")
    return file
