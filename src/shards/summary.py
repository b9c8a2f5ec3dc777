"""What lies in token shards: counts, lengths and ids, gathered in one pass and shown as tables."""

import itertools
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from rich import box
from rich.table import Table

from src.errors import UserError
from src.shards.collection import Collection
from src.shards.spelling import Vocabulary, text_of
from src.shards.token_file import Advance, Span, TokenFile, ignore, length_blocks, token_blocks

HISTOGRAM_BARS = 10
BAR_WIDTH = 32
COUNTED_IDS = 1 << 22  # ids up to here are counted one by one
FREQUENT = 10


@dataclass
class Summary:
    """What one split holds.

    lengths: how many segments have each number of tokens.
    ids: how often each id occurs, int64 ``[highest id + 1]``.
    limit: tokens that a segment may have.
    """

    format: str
    dtype: str
    files: int
    documents: int
    bytes: int
    limit: int
    lengths: Counter[int] = field(default_factory=Counter)
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    groups: tuple[int, ...] = ()
    multimodal: int = 0

    @property
    def segments(self) -> int:
        return sum(self.lengths.values())

    @property
    def tokens(self) -> int:
        return sum(length * count for length, count in self.lengths.items())

    def quantile(self, share: float) -> int:
        """Length that so large a share of the segments does not exceed."""
        lengths = sorted(self.lengths)
        reached = np.cumsum([self.lengths[length] for length in lengths])
        return lengths[int(np.searchsorted(reached, share * reached[-1]))] if lengths else 0

    def histogram(self) -> list[tuple[int, int, int]]:
        """Lowest and highest length of each bar, and the segments in it."""
        longest = max(self.lengths, default=0)
        width = max(-(-longest // HISTOGRAM_BARS), 1)
        counts: Counter[int] = Counter()
        for length, count in self.lengths.items():
            counts[max(length - 1, 0) // width] += count
        return [(place * width + 1, (place + 1) * width, counts[place]) for place in range(-(-longest // width) or 1)]


def summarise(collection: Collection, split: str, advance: Advance = ignore) -> Summary:
    """Read all of one split.

    Raises:
        UserError: its index is damaged, or it holds ids that no vocabulary has.
    """
    files = split_files(collection, split)
    first = files[0]
    summary = Summary(
        format=first.format,
        dtype=str(first.dtype),
        files=len(files),
        documents=sum(file.documents for file in files),
        bytes=sum(path.stat().st_size for file in files for path in file.files),
        limit=0,
        groups=first.groups if len(files) == 1 else (),
        multimodal=sum(int(np.count_nonzero(file.modes)) for file in files if file.modes is not None),
    )
    spans = [Span.whole(file) for file in files]
    for lengths in length_blocks(spans):
        values, counts = np.unique(lengths, return_counts=True)
        summary.lengths.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    for block in token_blocks(spans, advance=advance):
        if block.size and (block.min() < 0 or block.max() >= COUNTED_IDS):
            raise UserError(
                f"{collection.path} holds id {int(block.max())} (lowest {int(block.min())}), which no vocabulary has: "
                "check its dtype, or run the verify action"
            )
        counts = np.bincount(block, minlength=len(summary.ids))
        counts[: len(summary.ids)] += summary.ids
        summary.ids = counts
    manifest = collection.manifest
    summary.limit = manifest.max_length if manifest else max(summary.lengths, default=0)
    return summary


def split_files(collection: Collection, split: str) -> list[TokenFile]:
    """Files of a split; of the only one where there is no manifest.

    Raises:
        UserError: there is no such split.
    """
    if not collection.manifest:
        return collection.splits[""]
    if split not in collection.splits:
        raise UserError(f"{collection.path} has no {split} shards, only: {', '.join(collection.splits)}")
    return collection.splits[split]


def overview_table(collection: Collection, split: str, summary: Summary, vocabulary: Vocabulary | None) -> Table:
    """Counts, lengths and ids of a split."""
    manifest = collection.manifest
    used = np.flatnonzero(summary.ids)
    size = manifest.vocabulary_size if manifest else vocabulary.vocab_size if vocabulary else None
    known = f", {len(used) / size:.1%} of the vocabulary of {size:,}" if size else ""
    positions = summary.segments * summary.limit
    fill = f"{summary.tokens / positions:.1%} of {summary.limit:,}" if positions else "–"
    mean = summary.tokens / summary.segments if summary.segments else 0.0
    rows = {
        "format": f"{summary.format}, {summary.dtype}, {summary.files} file{'s' * (summary.files != 1)}",
        "size": f"{summary.bytes / 1e6:,.2f} MB",
        "documents": f"{summary.documents:,}",
        "segments": f"{summary.segments:,}",
        "tokens": f"{summary.tokens:,}",
        "length": f"{min(summary.lengths, default=0):,} to {max(summary.lengths, default=0):,}, mean {mean:,.0f}, "
        f"median {summary.quantile(0.5):,}, 90 % up to {summary.quantile(0.9):,}",
        "fill": fill,
        "ids": f"{used[0]:,} to {used[-1]:,}, {len(used):,} different{known}" if len(used) else "–",
    }
    if manifest:
        rows["tokenizer"] = f"{manifest.tokenizer_name}, {manifest.tokenizer_fingerprint[:12]}…"
    if summary.groups:
        rows["kinds"] = ", ".join(f"{count:,}" for count in summary.groups) + " segments"
    if summary.multimodal:
        rows["multimodal"] = f"{summary.multimodal:,} segments are not text"
    table = Table(title=f"{collection.path}{f', {split}' if manifest else ''}", box=box.SIMPLE_HEAD, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def length_table(summary: Summary) -> Table:
    """Histogram of segment lengths."""
    table = Table(title="tokens in a segment", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(width=BAR_WIDTH)
    bars = summary.histogram()
    most = max((count for _, _, count in bars), default=0) or 1
    for low, high, count in bars:
        table.add_row(f"{low:,}–{high:,}", f"{count:,}", "█" * round(BAR_WIDTH * count / most) or "▏" * (count > 0))
    return table


def frequent_table(summary: Summary, vocabulary: Vocabulary | None) -> Table:
    """The ids that occur most often."""
    table = Table(title="most frequent ids", box=box.SIMPLE_HEAD)
    for heading in ("id", "times", "share"):
        table.add_column(heading, justify="right")
    if vocabulary:
        table.add_column("text")
    order = np.argsort(-summary.ids, kind="stable")[:FREQUENT]
    for index in order[summary.ids[order] > 0].tolist():
        count = int(summary.ids[index])
        cells = [f"{index}", f"{count:,}", f"{count / summary.tokens:.2%}"]
        table.add_row(*cells, *([repr(text_of([index], vocabulary)).replace("[", r"\[")] if vocabulary else []))
    return table


def sample(collection: Collection, split: str, number: int) -> np.ndarray:
    """Token ids of one segment of a split, counted over its files.

    Raises:
        UserError: there is no such segment.
    """
    files = split_files(collection, split)
    total = sum(map(len, files))
    if not 0 <= number < total:
        raise UserError(f"sample={number} is outside the {total} segments of {collection.path}: give 0 to {total - 1}")
    starts = [0, *itertools.accumulate(map(len, files))]
    place = bisect_right(starts, number) - 1
    return files[place].segment(number - starts[place])
