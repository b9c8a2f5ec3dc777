"""What people see of a preprocessing run: a progress bar while it runs and a table at its end."""

from collections.abc import Iterable
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from src.corpus import worker
from src.shards.manifest import Manifest


class SourceProgress:
    """A bar for one source: share of the input, MB of text a second, documents, time left."""

    def __init__(self, name: str, total_bytes: int, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[documents]:,} documents"),
            TextColumn("{task.fields[rate]:.1f} MB/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )
        self._task = self._progress.add_task(name, total=total_bytes, documents=0, rate=0.0)

    def update(self, progress: worker.Progress) -> None:
        """Show how far all workers are together."""
        elapsed = self._progress.tasks[0].elapsed or 1e-9
        self._progress.update(
            self._task,
            completed=progress.position,
            documents=progress.documents,
            rate=progress.text_bytes / 1e6 / elapsed,
        )

    def __enter__(self) -> "SourceProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._progress.update(self._task, completed=self._progress.tasks[0].total)
        self._progress.stop()


def summary_table(manifests: Iterable[Manifest]) -> Table:
    """One row a source and split: documents, MB of text, tokens, segments, mean fill of them, bytes of text a token;
    and for each source the records left out: bad ones, which could not be read, and empty ones."""
    table = Table(title="token shards", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("source", "split"):
        table.add_column(heading, no_wrap=True)
    for heading in ("docs", "MB", "tokens", "segments", "fill", "bytes/ token", "bad", "empty"):
        table.add_column(heading, justify="right", no_wrap=heading in ("docs", "tokens", "segments"), min_width=4)
    for manifest in manifests:
        for split, counts in sorted(manifest.splits.items()):
            first = split == min(manifest.splits)
            table.add_row(
                manifest.source if first else "",
                split,
                f"{counts.documents:,}",
                f"{counts.bytes / 1e6:.2f}",
                f"{counts.tokens:,}",
                f"{counts.segments:,}",
                f"{counts.tokens / (counts.segments * manifest.max_length):.1%}",
                f"{counts.bytes / counts.tokens:.2f}",
                f"{sum(manifest.bad_records.values()):,}" if first else "",
                f"{manifest.empty_documents:,}" if first else "",
            )
    return table
