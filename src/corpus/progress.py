"""How far the tasks of a stage are, told by the processes of one machine through a few shared numbers.

A task calls `advance` every now and then; where nobody watches, as on a cluster, that does nothing. The same call is
how a worker process learns that it should stop: another one failed, or the process that started it is gone.
"""

import os
import time
from multiprocessing.context import BaseContext
from typing import Any

INTERVAL_S = 0.2
STOP, BYTES, DOCUMENTS, TEXT_BYTES = range(4)

_board: Any = None  # int64 [4]: the stop sign, and what all processes together have behind them
_parent: int | None = None


class StoppedError(Exception):
    """This task gives up because the run is over."""


def make_board(context: BaseContext) -> Any:
    """A board that processes of this context can share."""
    return context.Array("q", 4)


def watch(board: Any, parent: int | None = None) -> None:
    """Let the tasks of this process report to a board; `parent` is the process without which they should stop."""
    global _board, _parent
    _board, _parent = board, parent


class Pace:
    """Passes on a task's progress a few times a second. Sizes in bytes; `position` and the others only ever grow."""

    def __init__(self) -> None:
        self._next = 0.0
        self._told = (0, 0, 0)

    def advance(self, position: int, documents: int, text_bytes: int, last: bool = False) -> None:
        """Tell how much input, how many documents and how much text the task has behind it.

        Raises:
            StoppedError: the run is over for this task.
        """
        if _board is None or not (last or time.monotonic() >= self._next):
            return
        if _board[STOP] or (_parent is not None and os.getppid() != _parent):
            raise StoppedError
        now = (position, documents, text_bytes)
        with _board.get_lock():
            for field, (value, before) in enumerate(zip(now, self._told, strict=True), start=1):
                _board[field] += value - before
        self._told = now
        self._next = time.monotonic() + INTERVAL_S
