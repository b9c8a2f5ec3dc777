"""A run asked to stop at any moment saves what it has; the resumed one ends with an uninterrupted run's weights."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from omegaconf import DictConfig, open_dict

from src.callbacks.checkpoint_files import newest, step_of
from src.callbacks.preemption import Preempted, Preemption
from src.models.spec import ModelSpec
from src.training import train

Compose = Callable[[Sequence[str]], DictConfig]
STEPS = 6


class SignalAt(L.Callback):
    """Sends this process a signal at one moment of the run, as a scheduler would."""

    def __init__(self, moment: str, number: int = signal.SIGTERM) -> None:
        self.moment, self.number, self.sent = moment, number, False

    def _reached(self, moment: str) -> None:
        if moment == self.moment and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)

    def on_sanity_check_start(self, *args: Any) -> None:
        self._reached("sanity check")

    def on_train_start(self, *args: Any) -> None:
        self._reached("before the first step")

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 5:  # the second micro-batch of the third step
            self._reached("between micro-batches")
        if trainer.global_step == STEPS - 1:
            self._reached("in the last step")

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.state.fn == "validate":
            self._reached("while validating before training")
        if trainer.state.fn == "fit" and trainer.global_step == 3:
            self._reached("while validating")

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.global_step == 4:
            self._reached("while saving")


def run(compose_train: Compose, instructions: Path, folder: Path, moment: str | None, *more: str) -> Path:
    """Train in ``folder`` with LoRA dropout; two micro-batches a step, a validation of two batches every third step."""
    cfg = compose_train(
        [
            "experiment=sft_demo",
            "model=llama_tiny",
            "adapter.dropout=0.2",
            f"data.train={instructions}",
            "data.max_length=64",
            "data.micro_batch_size=1",
            "data.global_batch_size=2",
            "data.validation_rows=2",
            "trainer.precision=32-true",
            f"trainer.max_steps={STEPS}",
            "trainer.val_every_n_steps=3",
            f"validate_before={moment == 'while validating before training'}",
            "callbacks.samples=null",
            "callbacks.export=null",
            "callbacks.loss_curve=null",
            "callbacks.last.every_n_steps=2",
            *more,
        ]
    )
    with open_dict(cfg):
        cfg.paths.output_dir = str(folder)
        for name in ("best", "last"):
            cfg.callbacks[name].folder = str(folder / "checkpoints")
        cfg.logger.csv.save_dir = str(folder)
        if moment:
            cfg.callbacks.signal = {"_target_": f"{SignalAt.__module__}.{SignalAt.__qualname__}", "moment": moment}
    folder.mkdir(exist_ok=True)
    train(cfg)
    return folder


def state(folder: Path) -> dict[str, Any]:
    found = newest([folder / "checkpoints"]).found
    assert found is not None and step_of(found) == STEPS
    return torch.load(found, weights_only=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("reference") / "run"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("while validating before training", 1),
        ("before the first step", 1),
        ("between micro-batches", 3),
        ("while validating", 3),
        ("while saving", 4),
    ],
)
def test_a_run_stopped_at_any_moment_goes_on_to_the_same_weights_and_moments(
    moment: str,
    step: int,
    reference: dict[str, Path],
    compose_train: Compose,
    instructions: Path,
    llama_tiny: ModelSpec,
    tmp_path: Path,
) -> None:
    whole = reference["folder"]
    if not whole.exists():
        run(compose_train, instructions, whole, None)
    folder = tmp_path / "stopped"
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as stop:
        run(compose_train, instructions, folder, moment)
    assert stop.value.code == 128 + signal.SIGTERM and stop.value.step == step
    assert step_of(stop.value.checkpoint) == step and not (folder / "metrics.json").exists()
    assert signal.getsignal(signal.SIGTERM) is handler
    run(compose_train, instructions, folder, None, "ckpt_path=last")
    one, other = state(whole), state(folder)
    assert_equal(one["state_dict"], other["state_dict"])
    assert_equal(one["optimizer_states"][0]["state"], other["optimizer_states"][0]["state"])
    assert metrics(whole) == metrics(folder)


@pytest.mark.slow
def test_a_run_asked_to_stop_in_its_last_step_finishes(
    compose_train: Compose, instructions: Path, llama_tiny: ModelSpec, tmp_path: Path
) -> None:
    folder = run(compose_train, instructions, tmp_path / "run", "in the last step")
    assert json.loads((folder / "metrics.json").read_text())["steps"] == STEPS


def assert_equal(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[key])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[key])), key


def metrics(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if name.startswith(("train/", "val/"))}


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_changes_nothing() -> None:
    callback = Preemption()
    callback._handle(signal.SIGTERM, None)
    callback._handle(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        callback._handle(signal.SIGINT, None)
