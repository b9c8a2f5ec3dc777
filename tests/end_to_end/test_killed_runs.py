"""Runs killed without warning: the same command with ckpt_path=last ends with the bytes of an uninterrupted run."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from src.callbacks.checkpoint_files import newest, problem_with
from src.command import ROOT
from src.models.spec import ModelSpec
from tests.end_to_end.tiny_runs import ENVIRONMENT, tiny_run

STEPS = 24
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
TIMED = ("throughput/", "memory/")  # columns that no two runs have in common


@pytest.fixture(scope="module")
def whole(instructions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process, with the checkpoint of step 12 kept."""
    return uninterrupted(tmp_path_factory.mktemp("whole") / "run", instructions)


@pytest.fixture(scope="module")
def whole_of_two(instructions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two processes."""
    return uninterrupted(tmp_path_factory.mktemp("whole_of_two") / "run", instructions, *DDP)


def uninterrupted(folder: Path, instructions: Path, *more: str) -> Path:
    finish(folder, instructions, "callbacks.last.keep_every_n_steps=12", *more)
    return folder


def command(folder: Path, instructions: Path, *more: str) -> list[str]:
    """LoRA with dropout, two micro-batches a step (one on each of two processes), a checkpoint every fourth step."""
    settings = tiny_run(
        instructions,
        "adapter.dropout=0.1",
        f"hydra.run.dir='{folder}'",
        f"trainer.max_steps={STEPS}",
        "trainer.val_every_n_steps=6",
        "callbacks.last.every_n_steps=4",
        *more,
    )
    return [sys.executable, str(ROOT / "train.py"), *settings]


def start(folder: Path, instructions: Path, *more: str) -> psutil.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "out").open("a") as out:
        return psutil.Popen(command(folder, instructions, *more), stdout=out, stderr=out, env=ENVIRONMENT)


def finish(folder: Path, instructions: Path, *more: str) -> str:
    """Run to the end; what it said."""
    done = subprocess.run(
        command(folder, instructions, *more), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def wait_for_step(folder: Path, step: int, process: psutil.Popen) -> None:
    deadline = time.monotonic() + 200
    while not any(int(row["step"]) >= step for row in metrics_of(folder)):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "out").read_text()[-3000:]
        time.sleep(0.005)


def metrics_of(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what depends on time."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key} for row in csv.DictReader(file)]
    rows = [row for row in rows if (row.get("step") or "").isdigit()]
    return [{key: value for key, value in row.items() if not key.startswith(TIMED)} for row in rows]


def adapter_of(folder: Path) -> bytes:
    return (folder / "export" / "adapter_model.safetensors").read_bytes()


def stop_while_saving(folder: Path, process: psutil.Popen, after: int) -> Path:
    """SIGSTOP the process between the first byte of a checkpoint and its manifest; the unfinished file."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        for partial in (folder / "checkpoints").glob(".step_*.ckpt.partial"):
            process.send_signal(signal.SIGSTOP)
            while process.status() != psutil.STATUS_STOPPED:
                time.sleep(0.001)
            if partial.exists() and int(partial.name.split("_")[1][:8]) > after:
                return partial
            process.send_signal(signal.SIGCONT)
    raise AssertionError((folder / "out").read_text()[-3000:])


@pytest.mark.slow
def test_a_run_killed_at_any_step_and_while_saving_ends_with_the_same_bytes(
    whole: Path, instructions: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    step = random.randint(1, STEPS - 12)
    print(f"killed at step {step}")  # shown by pytest if the test fails
    process = start(folder, instructions, "ckpt_path=auto")
    wait_for_step(folder, step, process)
    process.kill()
    process.wait(30)
    before = newest([folder / "checkpoints"]).found

    process = start(folder, instructions, "ckpt_path=auto")
    partial = stop_while_saving(folder, process, after=max(step, 4))  # one is complete
    process.kill()
    process.wait(30)
    print(f"killed while writing {partial}")
    assert partial.exists()
    newest_one = newest([folder / "checkpoints"]).found
    assert newest_one is not None and problem_with(newest_one) is None and newest_one.name < partial.name[1:]
    assert before is None or newest_one.name >= before.name

    finish(folder, instructions, "ckpt_path=last")
    assert adapter_of(folder) == adapter_of(whole)
    assert metrics_of(folder) == metrics_of(whole)
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_the_resumed_one_ends_with_the_same_bytes(
    whole_of_two: Path, instructions: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for killed in (1, 0):
        step = random.randint(1, 10) + 11 * (1 - killed)
        print(f"rank {killed} killed at step {step}")
        process = start(folder, instructions, *DDP, "ckpt_path=auto")
        wait_for_step(folder, step, process)
        family = process.children(recursive=True)
        (rank_1,) = [child for child in family if "train_ddp_process_1" in " ".join(child.cmdline())]
        (rank_1 if killed else process).kill()
        assert process.wait(40) != 0
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
    finish(folder, instructions, *DDP, "ckpt_path=last")
    assert adapter_of(folder) == adapter_of(whole_of_two)


@pytest.mark.slow
@pytest.mark.parametrize(("made_by", "processes"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    made_by: int, processes: int, whole: Path, whole_of_two: Path, instructions: Path, tmp_path: Path
) -> None:
    former = whole if made_by == 1 else whole_of_two
    folder = tmp_path / "run"
    checkpoint = former / "checkpoints" / "step_00000012.ckpt"
    finish(folder, instructions, *(DDP if processes == 2 else []), f"ckpt_path='{checkpoint}'")
    resumed, reference = metrics_of(folder), metrics_of(whole)
    assert [row["step"] for row in resumed] == [row["step"] for row in reference]
    for column in ("train/loss", "val/loss", "train/grad_norm", "train/lr", "consumed/tokens"):
        assert numbers(resumed, column) == pytest.approx(numbers(reference, column), abs=1e-5)


def numbers(rows: list[dict[str, Any]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row[column]]


@pytest.mark.slow
def test_two_ranks_agree_on_a_checkpoint_that_failed_and_on_stopping(
    llama_tiny: ModelSpec, instructions: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    settings = command(folder, instructions, *DDP, "callbacks.last.max_failures=9", "callbacks.export=null")
    with (folder / "out").open("w") as out:  # no file of more than 100 × 1024 bytes: only checkpoints are larger
        limited = ["bash", "-c", 'ulimit -f 100; exec "$0" "$@"', *settings, "callbacks.best=null"]
        process = psutil.Popen(limited, stdout=out, stderr=out, env=ENVIRONMENT)
    wait_for_step(folder, 9, process)
    family = process.children(recursive=True)
    process.send_signal(signal.SIGTERM)  # the other rank is not told by anybody else
    assert process.wait(60) == 2
    assert not psutil.wait_procs(family, timeout=20)[1]
    said = (folder / "out").read_text()
    assert "the checkpoint of step 8 could not be written (File too large)" in said and "training goes on" in said
    assert "error: the checkpoint of step" in said and "the last good one is none" in said
    assert not list((folder / "checkpoints").iterdir())
