"""How far a corpus run is, on standard error: a bar for each stage, or on no terminal a line now and then."""

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is. `bytes` counts the input as stored, `text_bytes` UTF-8 text; zeros where it is not known."""

    stage: str
    tasks: int
    total_tasks: int
    bytes: int = 0
    total_bytes: int = 0
    documents: int = 0
    text_bytes: int = 0

    @property
    def share(self) -> float:
        """Part of the stage that is done, 0 to 1."""
        tasks = self.tasks / self.total_tasks if self.total_tasks else 1.0
        # tasks that an earlier run finished are in `tasks` only, the task at work is in `bytes` only
        return min(max(tasks, self.bytes / self.total_bytes if self.total_bytes else 0.0), 1.0)


class PipelineProgress:
    """Shows a run stage by stage; to be used as a context.

    Args:
        console: where to; standard error by default.
        line_every_s: pause between lines where the console is no terminal.
    """

    def __init__(self, console: Console | None = None, line_every_s: float = LINE_EVERY_S) -> None:
        self._console = console or Console(stderr=True)
        self._line_every_s = line_every_s
        self._bars = _bars(self._console)
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._last: StageProgress | None = None
        self._next_line = 0.0

    def update(self, progress: StageProgress) -> None:
        """Show how far a stage is; the stage before it is then done."""
        now = time.monotonic()
        if self._last is not None and self._last.stage != progress.stage:
            self._finish(self._last)
        self._last = progress
        if progress.stage not in self._started:
            self._started[progress.stage] = (now, progress.text_bytes)
            self._next_line = now + self._line_every_s
        began, before = self._started[progress.stage]
        rate = (progress.text_bytes - before) / 1e6 / (now - began) if now > began else 0.0
        if self._console.is_terminal:
            self._draw(progress, progress.share, rate)
        elif now >= self._next_line:
            self._print(progress, rate)
            self._next_line = now + self._line_every_s

    def _draw(self, progress: StageProgress, share: float, rate: float) -> None:
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(
                progress.stage, total=1.0, documents=0, rate=0.0, done=0, tasks=0
            )
        self._bars.update(
            self._tasks[progress.stage],
            completed=share,
            documents=progress.documents,
            rate=rate,
            done=progress.tasks,
            tasks=progress.total_tasks,
        )

    def _print(self, progress: StageProgress, rate: float) -> None:
        self._console.print(
            f"{progress.stage}: {progress.share:.0%}, {progress.tasks:,} of {progress.total_tasks:,} tasks, "
            f"{progress.documents:,} documents, {rate:.1f} MB/s",
            highlight=False,
        )

    def _finish(self, progress: StageProgress) -> None:
        began, before = self._started[progress.stage]
        elapsed = time.monotonic() - began
        rate = (progress.text_bytes - before) / 1e6 / elapsed if elapsed > 0 else 0.0
        if self._console.is_terminal:
            self._draw(progress, 1.0, rate)
        else:
            counts = f", {progress.documents:,} documents, {rate:.1f} MB/s" if progress.documents else ""
            self._console.print(f"{progress.stage}: done in {elapsed:.1f} s{counts}", highlight=False)

    def __enter__(self) -> "PipelineProgress":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._last is not None:
            self._finish(self._last)
        if self._console.is_terminal:
            self._bars.stop()


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>16}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[done]:,}/{task.fields[tasks]:,} tasks"),
        TextColumn("{task.fields[documents]:,} documents"),
        TextColumn("{task.fields[rate]:.1f} MB/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
