"""Throughput counts, the loss curve survives a checkpoint, and the tracker knows whether somebody is logged in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from src.callbacks.loggers import is_logged_in
from src.callbacks.loss_curve import LossCurve
from src.callbacks.throughput import Throughput, tokens_and_pairs


def test_tokens_are_counted_without_padding_and_pairs_within_segments() -> None:
    batch = {
        "labels": torch.tensor([[-100, 5, 6, -100, 7, -100, -100]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 1]]),
    }
    tokens, pairs = tokens_and_pairs(batch)
    assert tokens == 5 and pairs == (1 + 2 + 3) + (1 + 2)


def test_validation_before_and_between_steps_is_not_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("src.callbacks.throughput.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    module = Recorder(LlamaForCausalLM(config))
    trainer: Any = SimpleNamespace(precision="32-true", world_size=1, accumulate_grad_batches=1)
    batch = {"labels": torch.ones(1, 6, dtype=torch.long), "position_ids": torch.arange(6)[None]}
    throughput = Throughput()

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    def validate() -> None:
        throughput.on_validation_start(trainer, module)
        pass_time(50)
        throughput.on_validation_end(trainer, module)
        pass_time(7)  # samples are written after a validation

    validate()
    throughput.on_train_start(trainer, module)
    for step in range(4):
        throughput.on_train_batch_start(trainer, module, batch, step)
        pass_time(2)
        throughput.on_train_batch_end(trainer, module, None, batch, step)
        assert module.logged["throughput/tokens_per_s"] == pytest.approx(3.0)
        validate()


class Recorder(L.LightningModule):
    """A module that keeps what is logged instead of passing it to a trainer."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model, self.logged = model, {}

    def log(self, name: str, value: Any, *args: Any, **settings: Any) -> None:
        self.logged[name] = float(value)


def test_a_loss_curve_is_a_picture_and_part_of_the_checkpoint(tmp_path: Path) -> None:
    curve = LossCurve(str(tmp_path / "curve.png"), "test")
    curve.draw()
    assert not (tmp_path / "curve.png").exists()
    curve.train, curve.validation = [(1, 3.0), (2, 2.5)], {"zh": [(2, 2.6)]}
    curve.draw()
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    resumed = LossCurve(str(tmp_path / "again.png"))
    resumed.load_state_dict(curve.state_dict())
    assert (resumed.train, resumed.validation) == (curve.train, curve.validation)


def test_a_login_is_found_in_the_environment_or_netrc_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not is_logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert is_logged_in()
    (tmp_path / "netrc").write_text("machine example.org login user password secret\n")
    assert not is_logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert is_logged_in()
