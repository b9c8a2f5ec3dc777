"""The training command as a person meets it: help, mistakes, being stopped and going on, several processes, sweeps."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.command import ROOT
from src.models.spec import ModelSpec
from tests.end_to_end.tiny_runs import ENVIRONMENT, tiny_run


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def run(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout_s, check=False
    )


def tiny(instructions: Path, folder: Path, *more: str) -> list[str]:
    steps = ["trainer.max_steps=4", "trainer.val_every_n_steps=2"]
    return tiny_run(instructions, f"hydra.run.dir='{folder}'", *steps, "callbacks.samples=null", *more)


def test_help_shows_examples_and_groups() -> None:
    shown = run("--help").stdout
    assert "python train.py experiment=pretrain_demo" in shown
    assert "trainer=cpu: cpu, ddp, deepspeed_zero2, deepspeed_zero3, default, fsdp2, gpu, v100x24" in shown
    assert "smollm2_135m" in shown


COMPOSING = [  # told before torch is imported
    (["experiment=pretrain_demos"], ["experiment=pretrain_demos does not exist", "did you mean pretrain_demo"]),
    (["experiment=sft_demo", "optimiser.lr=1"], ["'optimiser.lr' is not a setting"]),
]


@pytest.mark.parametrize(("arguments", "words"), COMPOSING)
def test_a_mistake_in_the_config_is_told_at_once(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    start = time.monotonic()
    expect_mistake(run(*arguments, f"hydra.run.dir='{tmp_path}'"), words)
    assert time.monotonic() - start < 5  # half a second; importing torch and Lightning takes ten


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=sft_demo", "optimizer.lr=fast"], ["optimizer.lr must be a positive number", "'fast'"]),
        (["experiment=sft_demo", "adapter.r=0"], ["adapter.r must be a whole number"]),
        (["experiment=sft_demo", "data.train=nowhere.json"], ["no instruction file at nowhere.json"]),
        (["experiment=sft_demo", "data.train=???"], ["data.train has no value"]),
        (["experiment=sft_demo", "trainer.max_epochs=1"], ["either trainer.max_steps or trainer.max_epochs"]),
        (["experiment=sft_demo", "trainer.val_every_n_steps=0"], ["trainer.val_every_n_steps must be"]),
        (["experiment=sft_demo", "+data.shuffle=true"], ["data", "shuffle"]),
        (["experiment=sft_demo", "trainer.precision=fp16"], ["under trainer", "fp16"]),
        (["experiment=sft_demo", "data.max_length=9000"], ["context of smollm2_135m, 8192"]),
        (["experiment=sft_demo", "ckpt_path=nowhere.ckpt"], ["no checkpoint at ckpt_path=nowhere.ckpt"]),
        (["experiment=sft_demo", "model=./nowhere"], ["nowhere", "does not exist"]),
        (["experiment=pretrain_demo", "mix.shards_dir=/nowhere"], ["no token shards in /nowhere", "preprocess.py"]),
        (["experiment=pretrain_zh"], ["24 V100", "experiment=pretrain_demo"]),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: list[str], instructions: Path, tmp_path: Path) -> None:
    if "experiment=sft_demo" in arguments:  # its own data is made by the demo, which may not have run here
        arguments = ["experiment=sft_demo", f"data.train='{instructions}'", *arguments[1:]]
    expect_mistake(run(*arguments, f"hydra.run.dir='{tmp_path}'"), words)


def expect_mistake(done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_the_resumed_one_ends_like_an_uninterrupted_one(
    number: signal.Signals, llama_tiny: ModelSpec, instructions: Path, tmp_path: Path
) -> None:
    steps = ["trainer.max_steps=30", "trainer.val_every_n_steps=30"]
    assert run(*tiny(instructions, tmp_path / "whole", *steps)).returncode == 0
    stopped = tmp_path / "stopped"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command(*tiny(instructions, stopped, *steps)), stdout=log, stderr=log, env=ENVIRONMENT
        )
        wait_for(lambda: "step 10/30" in (tmp_path / "log").read_text(), process)
        process.send_signal(number)
        assert process.wait(120) == 128 + number
    said = (tmp_path / "log").read_text()
    assert "stopped at step" in said and "ckpt_path=" in said
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = run(*tiny(instructions, tmp_path / "resumed", *steps, f"ckpt_path='{checkpoint}'"))
    assert resumed.returncode == 0, resumed.stderr
    whole, again = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "resumed"))
    assert again["val/loss"] == pytest.approx(whole["val/loss"], abs=1e-6)
    assert again["steps"] == 30


def wait_for(condition, process: subprocess.Popen, timeout_s: float = 120) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(instructions: Path, tmp_path: Path) -> None:
    assert run(*tiny(instructions, tmp_path / "one")).returncode == 0
    two = run(*tiny(instructions, tmp_path / "two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"))
    assert two.returncode == 0, two.stderr
    one, both = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert both["val/loss"] == pytest.approx(one["val/loss"], abs=1e-5)
    assert both["train/loss"] == pytest.approx(one["train/loss"], abs=1e-5)


@pytest.mark.slow
def test_a_sweep_runs_each_combination_in_a_folder_of_its_own(
    llama_tiny: ModelSpec, instructions: Path, tmp_path: Path
) -> None:
    arguments = [a for a in tiny(instructions, tmp_path) if "max_steps" not in a and "val_every" not in a]
    sweep = ["trainer.max_steps=1", "trainer.val_every_n_steps=1", "adapter.r=4,8", "optimizer.lr=1e-4,3e-4"]
    done = run("-m", *arguments, *sweep, f"hydra.sweep.dir='{tmp_path / 'sweep'}'")
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in (tmp_path / "sweep").glob("*/metrics.json"))
    assert len(folders) == 4
    for folder in folders:
        assert (folder / "loss_curve.png").stat().st_size > 5000
        assert (folder / "export" / "adapter_model.safetensors").exists()
