"""The table at the end of a run: what was written of each source and split, and what was left out of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.table import Table

from src.corpus.report.counts import CorpusReport, SourceReport
from src.corpus.report.plots import short
from src.shards.manifest import Counts, Manifest

LEFT_OUT = ("drop- ped", "dupli- cates", "bad", "empty")


@dataclass(frozen=True)
class _Row:
    """A source as the table needs it; `left_out` has the counts of `LEFT_OUT`, None where nobody counted."""

    name: str
    max_length: int
    splits: dict[str, Counts]
    left_out: tuple[int | None, ...]


def summary_table(of: CorpusReport | Iterable[SourceReport | Manifest]) -> Table:
    """The run in 80 columns, a row a source and split.

    Documents, MB of text, tokens, segments, mean fill of them, bytes of text a token; and for each source what was left
    out: documents that the cleaning steps dropped, duplicates, bad records, which could not be read, and empty ones.
    """
    table = Table(title="token shards", box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    for heading in ("source", "split"):
        table.add_column(heading, no_wrap=True)
    for heading in ("docs", "MB", "tokens", "seg- ments", "fill", "bytes/ token", *LEFT_OUT):
        table.add_column(heading, justify="right", min_width=3)
    for item in of.sources.values() if isinstance(of, CorpusReport) else of:
        row = _row(item)
        for split, counts in sorted(row.splits.items()) or [("", Counts())]:
            first = split == min(row.splits, default="")
            table.add_row(row.name if first else "", split, *_sizes(counts, row.max_length), *_left_out(row, first))
    return table


def _row(item: SourceReport | Manifest) -> _Row:
    if isinstance(item, SourceReport):
        left_out = (item.dropped, item.duplicate_documents, item.bad_records, item.empty)
        return _Row(item.name, item.max_length, item.splits, left_out)
    unread = sum(item.bad_records.values())
    return _Row(item.source, item.max_length, item.splits, (None, None, unread, item.empty_documents))


def _sizes(counts: Counts, max_length: int) -> list[str]:
    if not counts.tokens:
        return [f"{counts.documents:,}", f"{counts.bytes / 1e6:.2f}", "0", short(counts.segments), "", ""]
    return [
        f"{counts.documents:,}",
        f"{counts.bytes / 1e6:.2f}",
        short(counts.tokens),
        short(counts.segments),
        f"{counts.tokens / (counts.segments * max_length):.1%}",
        f"{counts.bytes / counts.tokens:.2f}",
    ]


def _left_out(row: _Row, first: bool) -> list[str]:
    return [f"{value:,}" if first and value is not None else "" for value in row.left_out]
