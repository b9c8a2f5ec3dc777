"""Several workers on one source, each a process of its own with its own shards; one worker runs right here."""

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from src.corpus.worker import Job, Progress, Result, be_single_threaded, run_worker

REFRESH_S = 0.2
FIELDS = ("position", "documents", "text_bytes")

_shared: Any = None  # the board on which a worker process writes its progress and reads the stop sign


class _StoppedError(Exception):
    """Another worker failed or the parent is gone; this one gives up."""


def run_workers(job: Job, workers: int, on_progress: Callable[[Progress], None]) -> list[Result]:
    """Run all workers of a job and return their results in order.

    The first worker that fails stops the others, and its exception is raised here.

    Args:
        on_progress: called several times a second with how far all workers are together.
    """
    if workers == 1:
        return [run_worker(job, 0, _throttled(on_progress))]
    context = multiprocessing.get_context("spawn")  # a fork of a threaded process may hang
    board = context.Array(ctypes.c_int64, 1 + workers * len(FIELDS), lock=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(board,))
    try:
        futures = [pool.submit(_run, job, worker) for worker in range(workers)]
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=REFRESH_S, return_when=FIRST_EXCEPTION)
            on_progress(_together(board, workers))
            for future in done:
                future.result()
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RuntimeError("a worker process was killed, perhaps for want of memory: run again with fewer") from error
    finally:
        board[0] = 1
        pool.shutdown(cancel_futures=True)


def _throttled(on_progress: Callable[[Progress], None]) -> Callable[[Progress, bool], None]:
    next_time = 0.0

    def update(progress: Progress, last: bool) -> None:
        nonlocal next_time
        if last or time.monotonic() >= next_time:
            on_progress(progress)
            next_time = time.monotonic() + REFRESH_S

    return update


def _together(board: Any, workers: int) -> Progress:
    """Every worker passes over all of the input, so the slowest one tells the position."""
    rows = [board[1 + worker * len(FIELDS) : 1 + (worker + 1) * len(FIELDS)] for worker in range(workers)]
    return Progress(min(row[0] for row in rows), sum(row[1] for row in rows), sum(row[2] for row in rows))


def _start(board: Any) -> None:
    global _shared
    _shared = board
    be_single_threaded()


def _run(job: Job, worker: int) -> Result:
    parent = multiprocessing.parent_process()

    def update(progress: Progress, last: bool) -> None:
        if _shared[0] or (parent is not None and os.getppid() != parent.pid):
            raise _StoppedError
        start = 1 + worker * len(FIELDS)
        _shared[start : start + len(FIELDS)] = [getattr(progress, name) for name in FIELDS]

    return run_worker(job, worker, update)
