"""Sweeps: what each job leaves behind, one table of them all, and jobs that fail without taking the others with them.

A job writes ``job.json`` into its folder when it ends; whoever ends a job puts all of them together in ``sweep.csv`` in
the sweep's folder, so it is there after each job, whichever launcher ran it (Hydra's own, joblib, submitit) and however
the sweep ends.
"""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.command import ROOT, is_sweep_job, sentence
from src.errors import UserError
from src.strategies.launch import find_launch, this_rank

log = logging.getLogger(__name__)

JOB_FILE, TABLE = "job.json", "sweep.csv"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    folder: relative to that of the sweep.
    overrides: by key, those of the sweep and those that all jobs share.
    error: one sentence where it failed, else empty.
    value: of the metric that the sweep optimises.
    metrics: the numbers in its metrics.json.
    """

    number: int
    folder: str
    overrides: dict[str, str]
    error: str
    seconds: float
    value: float | None
    metrics: dict[str, float]


class SweepTable(Callback):
    """A Hydra callback: keeps a failed job from ending the sweep, and writes and shows the table of all jobs."""

    def __init__(self) -> None:
        self._start = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        launch = find_launch()
        sweeper = config.hydra.sweeper._target_.rpartition(".")[2]
        launcher = config.hydra.launcher._target_.rpartition(".")[2]
        if launch is not None and launch.world_size > 1 and (sweeper, launcher) != ("BasicSweeper", "BasicLauncher"):
            # Every process would plan jobs of its own. A callback's exceptions are warnings to Hydra, its exit is not.
            print(
                f"error: {launcher} and {sweeper} can't run in {launch.world_size} processes of {launch.launcher}: "
                "start the sweep with python train.py -m, its jobs start their processes themselves",
                file=sys.stderr,
            )
            sys.exit(2)
        # Jobs in new processes, wherever they were started, find the project.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        logging.getLogger("alembic").setLevel(logging.WARNING)  # Optuna's database, which lists its own plugins
        storage = OmegaConf.select(config, "hydra.sweeper.storage")
        if isinstance(storage, str) and storage.startswith("sqlite:///"):
            Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._start = time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not is_sweep_job():
            return
        folder, sweep = Path(config.hydra.runtime.output_dir), Path(config.hydra.sweep.dir)
        error, value = "", None
        if job_return.status is JobStatus.FAILED:
            failure: Any = job_return._return_value
            said = sentence(failure)
            error = said or f"{type(failure).__name__}: {failure}"
            log.error("job %s failed: %s", config.hydra.job.num, error, exc_info=None if said else failure)
            if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
                wandb.finish(exit_code=1)  # or the next job would go on in its run
            _forgive(job_return, error, config.hydra.sweeper._target_)
        elif isinstance(job_return.return_value, (int, float)):
            value = float(job_return.return_value)
        if this_rank():
            return
        overrides = dict(_split(one) for one in OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore
        seconds = time.monotonic() - self._start
        relative = os.path.relpath(folder, sweep)
        job = Job(int(config.hydra.job.num), relative, overrides, error, seconds, value, _metrics(folder))
        _write(folder / JOB_FILE, json.dumps(asdict(job), indent=2, ensure_ascii=False))
        write_table(sweep, read_jobs(sweep))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweep = Path(config.hydra.sweep.dir)
        jobs = read_jobs(sweep)
        if this_rank() or not jobs:
            return
        write_table(sweep, jobs)
        optimized = OmegaConf.select(config, "optimized_metric") or "val/loss"
        maximize = "maximize" in str(OmegaConf.select(config, "hydra.sweeper.direction"))
        show_table(jobs, optimized, maximize)
        print(f"all metrics of all jobs: {sweep / TABLE}")
        failed = [job for job in jobs if job.error]
        if failed:
            print(f"error: {len(failed)} of {len(jobs)} jobs failed, the first one: {failed[0].error}", file=sys.stderr)
            sys.exit(1)


def _forgive(job_return: JobReturn, error: str, sweeper: str) -> None:
    """Let the sweep go on. Optuna wants to know of a failure, Hydra's sweeper would end with it."""
    if sweeper.endswith("OptunaSweeper"):
        job_return.return_value = UserError(error)  # can be sent between processes, which not every exception can
    else:
        job_return.status, job_return.return_value = JobStatus.COMPLETED, None


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep that have ended, by number."""
    found = [Job(**json.loads(path.read_text(encoding="utf-8"))) for path in sweep.glob(f"**/{JOB_FILE}")]
    return sorted(found, key=lambda job: job.number)


def write_table(sweep: Path, jobs: Sequence[Job]) -> None:
    """``sweep.csv``: a row for each job, with the settings in which jobs differ and all their metrics."""
    settings = swept_settings(jobs)
    metrics = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    rows = [["job", "folder", *settings, "error", "seconds", "value", *metrics]]
    for job in jobs:
        chosen = [job.overrides.get(key, "") for key in settings]
        numbers = ["" if (number := job.metrics.get(name)) is None else repr(number) for name in metrics]
        value = "" if job.value is None else repr(job.value)
        rows.append([str(job.number), job.folder, *chosen, job.error, f"{job.seconds:.1f}", value, *numbers])
    temporary = sweep / f".{TABLE}.{os.getpid()}"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    temporary.replace(sweep / TABLE)


def swept_settings(jobs: Sequence[Job]) -> list[str]:
    """Keys of the overrides in which jobs differ; of all of them where there is one job."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    varied = [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]
    return varied or list(keys)


def show_table(jobs: Sequence[Job], optimized: str, maximize: bool = False) -> None:
    """Print the jobs, the best first, and the overrides of the best."""
    from rich.console import Console
    from rich.table import Table

    def result(job: Job) -> float | None:
        return job.value if job.value is not None else job.metrics.get(optimized)

    def rank(job: Job) -> tuple[bool, float]:
        value = result(job)
        return (True, 0.0) if value is None or value != value else (False, -value if maximize else value)

    settings, ordered = swept_settings(jobs), sorted(jobs, key=rank)
    table = Table(title=f"{len(jobs)} jobs by {optimized}")
    for name in ("job", *settings, optimized, "seconds", ""):
        table.add_column(name, overflow="fold")
    for job in ordered:
        value = result(job)
        shown = "" if value is None else f"{value:.5g}"
        chosen = [job.overrides.get(key, "") for key in settings]
        table.add_row(job.folder, *chosen, shown, f"{job.seconds:.0f}", "failed" if job.error else "")
    Console().print(table)
    best = ordered[0]
    if not rank(best)[0]:
        print(f"best: {' '.join(f'{key}={best.overrides[key]}' for key in settings if key in best.overrides)}")


def run_apart() -> dict[str, float]:
    """Run a job of a sweep as a command of its own and return its metrics.

    For jobs on several devices: the processes that Lightning starts repeat the command line, which must be that of the
    job and not that of the sweep.

    Raises:
        UserError: it ended with another status than 0.
    """
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    settings = [f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]
    command = [sys.executable, str(ROOT / "train.py"), *hydra_cfg.overrides.task, *settings]
    process = subprocess.Popen(command, cwd=hydra_cfg.runtime.cwd)
    with _ending_with(process):
        status = process.wait()
    if status:
        raise UserError(f"the job in {folder} ended with status {status}: its log says why")
    return _metrics(folder)


@contextmanager
def _ending_with(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand the signals that ask for a checkpoint and an end to a process, and don't leave it behind."""

    def hand_on(number: int, frame: Any) -> None:
        process.send_signal(number)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        try:
            previous[number] = signal.signal(number, hand_on)
        except ValueError:  # only the main thread may
            break
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.terminate()
            process.wait()


def _metrics(folder: Path) -> dict[str, float]:
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
