"""Where the stages of a run are carried out: processes of this machine, Slurm, or Ray, through datatrove's executors.

A stage is a datatrove pipeline and a number of tasks; stages follow one another. What a task does is no business of the
executor: it is a pure function of its number and the plan in the work folder, so the same run may be begun on one
machine and gone on with on another. Tasks that are complete are skipped.
"""

import contextlib
import errno
import io
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from src.corpus import progress
from src.corpus.report.bars import StageProgress
from src.errors import UserError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 3.0
QUEUE_FILE = "queued.json"  # in the folder of logs: the jobs of a Slurm run


@dataclass(frozen=True)
class Stage:
    """A pipeline, how many tasks it is run for, and the bytes that all of them read (for the progress bar)."""

    name: str
    pipeline: list[PipelineStep]
    tasks: int
    bytes: int = 0

    @property
    def slug(self) -> str:
        """The name as folders and jobs can have it."""
        return "-".join(re.findall(r"\w+", self.name))


OnProgress = Callable[[StageProgress], None]


class Executor(Protocol):
    """Carries out stages one after another.

    `waits` tells whether `run` comes back when all is done, or as soon as the jobs are queued.
    """

    waits: bool

    def run(self, stages: Sequence[Stage], logs: Path, on_progress: OnProgress) -> None:
        """Run every task of every stage that is not complete; `logs` is where datatrove keeps count of that."""
        ...


class Local:
    """Processes of this machine. The first task that fails stops the others.

    Args:
        workers: processes; None means one for each core this process may use.
    """

    waits = True

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise UserError(f"workers={workers} cannot work: give a whole number of processes, or null for all cores")
        self.workers = workers or len(os.sched_getaffinity(0))

    def __str__(self) -> str:
        return f"local, {self.workers} worker{'s' if self.workers > 1 else ''}"

    def run(self, stages: Sequence[Stage], logs: Path, on_progress: OnProgress) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a threaded process may hang
        board = progress.make_board(context)
        pool: ProcessPoolExecutor | None = None
        try:
            for stage in stages:
                executor = _LocalStage(stage.pipeline, tasks=stage.tasks, logging_dir=str(logs / stage.slug))
                board[:] = [0] * len(board)
                ranks = executor.get_incomplete_ranks()
                if min(self.workers, len(ranks)) > 1 and pool is None:
                    arguments = (board, os.getpid())
                    pool = ProcessPoolExecutor(self.workers, context, initializer=_start, initargs=arguments)
                if pool is not None and len(ranks) > 1:
                    self._in_pool(stage, executor, ranks, pool, board, on_progress)
                else:
                    self._here(stage, executor, ranks, board, on_progress)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"no space left on the disk of {logs.parent}: make room and run the same command again, what is "
                "finished is kept"
            ) from error
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for want of memory: run the same command again to go on, with "
                "fewer workers=…"
            ) from error
        finally:
            board[progress.STOP] = 1
            if pool is not None:
                _end(pool)

    @staticmethod
    def _in_pool(
        stage: Stage,
        executor: "_LocalStage",
        ranks: list[int],
        pool: ProcessPoolExecutor,
        board: Any,
        on_progress: OnProgress,
    ) -> None:
        behind = stage.tasks - len(ranks)
        pending: set[Future[None]] = {pool.submit(executor.run_task, rank) for rank in ranks}
        finished = 0
        with _interrupts() as interrupted:
            while pending:
                done, pending = wait(pending, timeout=progress.INTERVAL_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                finished += len(done)
                on_progress(_standing(stage, board, behind + finished))
                if interrupted.is_set():
                    raise KeyboardInterrupt

    @staticmethod
    def _here(stage: Stage, executor: "_LocalStage", ranks: list[int], board: Any, on_progress: OnProgress) -> None:
        done = stage.tasks - len(ranks)
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(progress.INTERVAL_S):
                on_progress(_standing(stage, board, done))

        reporter = threading.Thread(target=report, daemon=True)
        progress.watch(board)
        reporter.start()
        try:
            for rank in ranks:
                executor.run_task(rank)
                done += 1
        finally:
            progress.watch(None)
            ended.set()
            reporter.join()
        on_progress(_standing(stage, board, done))


def _standing(stage: Stage, board: Any, tasks: int) -> StageProgress:
    _, position, documents, text_bytes = board[:]
    return StageProgress(stage.name, tasks, stage.tasks, position, stage.bytes, documents, text_bytes)


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Ctrl-C as something to look at: as an exception it may come within a callback of the pool, which swallows it."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def see(number: int, frame: Any) -> None:
        seen.set()
        signal.signal(signal.SIGINT, before)  # a second one does not wait

    before = signal.signal(signal.SIGINT, see)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers: by themselves when they see the stop sign, else by force, which loses their tasks only."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


class _LocalStage(LocalPipelineExecutor):
    """datatrove's executor of one stage, run task by task in processes that notice a death among them."""

    pipeline: list[PipelineStep]

    def run_task(self, rank: int) -> None:
        """Run one task on fresh copies of the steps; its log lies in the logging folder, not on the screen."""
        pipeline = self.pipeline
        self.pipeline = deepcopy(pipeline)
        try:
            with _quiet():
                self._run_for_rank(rank, local_rank=1)
        finally:
            self.pipeline = pipeline


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep datatrove's logger off the screen: it holds on to the stream that is standard error when a task begins."""
    from loguru import logger as task_logger

    with contextlib.redirect_stderr(io.StringIO()):
        yield
    task_logger.remove()


def _start(board: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    progress.watch(board, parent)
    be_single_threaded()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: a worker that waits for tasks would wait for ever."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def be_single_threaded() -> None:
    """Keep tokenizers to one thread in this process; the workers are the parallelism."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["FASTOKENS_BPE_THREADS"] = "1"


class Slurm:
    """Job arrays of a Slurm cluster, each stage depending on the one before. The work folder must be shared.

    Args:
        partition: where the jobs go.
        time: limit of one task, ``HH:MM:SS``.
        workers: tasks of a stage that run at once; None leaves it to the cluster.
        mem_per_cpu_gb: GB for one task.
        options: any other argument of datatrove's `SlurmPipelineExecutor`, such as ``qos`` or ``sbatch_args``.
    """

    waits = False

    def __init__(
        self,
        partition: str,
        time: str = "04:00:00",
        workers: int | None = None,
        mem_per_cpu_gb: int = 2,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.settings = {
            "partition": partition,
            "time": time,
            "mem_per_cpu_gb": mem_per_cpu_gb,
            "workers": workers or -1,
        }
        self.settings |= options or {}

    def __str__(self) -> str:
        return f"Slurm, partition {self.settings['partition']}"

    def run(self, stages: Sequence[Stage], logs: Path, on_progress: OnProgress) -> None:
        from datatrove.executor.slurm import SlurmPipelineExecutor

        executors: list[Any] = []
        for stage in stages:
            settings = {"job_name": stage.slug, "env_command": _environment(), "qos": None} | self.settings
            executors.append(
                SlurmPipelineExecutor(
                    stage.pipeline,
                    tasks=stage.tasks,
                    logging_dir=str((logs / stage.slug).resolve()),
                    depends=executors[-1] if executors else None,
                    **settings,
                )
            )
        try:
            executors[-1].run()
        except FileNotFoundError as error:
            raise UserError(
                f"this machine has no Slurm ({error}): log in to the cluster, or give executor=local"
            ) from None
        jobs = [executor.job_id for executor in executors if executor.job_id not in (None, -1)]
        (logs / QUEUE_FILE).write_text(json.dumps(jobs))
        logger.info("queued as jobs %s, which log to %s", ", ".join(map(str, jobs)), logs)


def check_queue(logs: Path) -> None:
    """Raise a `UserError` while jobs of an earlier Slurm run are still queued or running on the same work folder."""
    file = logs / QUEUE_FILE
    if not file.is_file() or shutil.which("squeue") is None:
        return
    jobs = ",".join(map(str, json.loads(file.read_text())))
    queued = subprocess.run(["squeue", "-h", "-j", jobs, "-o", "%A"], capture_output=True, text=True, check=False)
    if numbers := sorted(set(queued.stdout.split())):
        raise UserError(
            f"jobs {', '.join(numbers)} are at work on {logs.parent}: wait for them, or give scancel "
            f"{' '.join(numbers)} first"
        )


def _environment() -> str:
    """Shell commands with which a job finds this project and its Python."""
    return f"export PATH='{Path(sys.executable).parent}':$PATH PYTHONPATH='{ROOT}' FASTOKENS_BPE_THREADS=1"


class Ray:
    """Tasks on a Ray cluster, this machine's own one where none is running. The work folder must be shared.

    Args:
        workers: tasks of a stage that run at once; None leaves it to the cluster.
        options: any other argument of datatrove's `RayPipelineExecutor`, such as ``mem_per_cpu_gb``.
    """

    waits = True

    def __init__(self, workers: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.settings = {"workers": workers or -1} | (options or {})

    def __str__(self) -> str:
        return "Ray"

    def run(self, stages: Sequence[Stage], logs: Path, on_progress: OnProgress) -> None:
        try:
            import ray
            from datatrove.executor.ray import RayPipelineExecutor
        except ImportError:
            raise UserError(
                "executor=ray needs the package ray: pip install 'ray>=2.50', or give executor=local"
            ) from None
        if not ray.is_initialized():
            ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "FASTOKENS_BPE_THREADS": "1"}})
        for stage in stages:
            executor = RayPipelineExecutor(
                stage.pipeline, tasks=stage.tasks, logging_dir=str((logs / stage.slug).resolve()), **self.settings
            )
            if not executor.get_incomplete_ranks():
                continue
            executor.run()
            if failed := executor.get_incomplete_ranks():
                raise UserError(
                    f"{len(failed)} of {stage.tasks} tasks of stage '{stage.name}' failed, the first is {failed[0]}: "
                    f"read {logs / stage.slug}/logs/task_{failed[0]:05d}.log, then run the same command again"
                )
            on_progress(StageProgress(stage.name, stage.tasks, stage.tasks, stage.bytes, stage.bytes))
