"""Where a stage runs makes no difference to what it does, and a task that is complete is not run again."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from datatrove.pipeline.base import PipelineStep

from src.corpus.executors import Local, Slurm, Stage
from src.corpus.report.bars import StageProgress
from src.errors import UserError


class Mark(PipelineStep):
    """Writes its process into a file of the task; fails in one task if it is told to."""

    type, name = "test", "mark"

    def __init__(self, folder: Path, fails: int | None = None) -> None:
        super().__init__()
        self.folder, self.fails, self.runs = folder, fails, 0

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        self.runs += 1
        if rank == self.fails:
            raise UserError(f"task {rank} cannot")
        with (self.folder / f"{rank}").open("a") as file:
            file.write(f"{os.getpid()} {self.runs}\n")


def nothing(progress: StageProgress) -> None:
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once_with_steps_of_its_own(tmp_path: Path, workers: int) -> None:
    stages = [Stage("first", [Mark(tmp_path)], 5), Stage("second", [Mark(tmp_path)], 5)]
    seen: list[StageProgress] = []
    Local(workers).run(stages, tmp_path / "logs", seen.append)
    lines = [(tmp_path / str(rank)).read_text().splitlines() for rank in range(5)]
    assert all(len(found) == 2 and all(line.endswith(" 1") for line in found) for found in lines)
    processes = {line.split()[0] for found in lines for line in found}
    assert (processes == {str(os.getpid())}) == (workers == 1)
    assert [progress.tasks for progress in seen if progress.stage == "second"][-1] == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_raised_and_the_next_run_does_only_what_is_missing(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="task 3 cannot"):
        Local(workers).run([Stage("stage", [Mark(tmp_path, fails=3)], 5)], tmp_path / "logs", nothing)
    assert "Traceback" not in capfd.readouterr().err
    Local(workers).run([Stage("stage", [Mark(tmp_path)], 5)], tmp_path / "logs", nothing)
    assert all(len((tmp_path / str(rank)).read_text().splitlines()) == 1 for rank in range(5))


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(UserError, match="no Slurm"):
        Slurm(partition="cpu").run([Stage("only", [Mark(tmp_path)], 1)], tmp_path / "logs", nothing)
