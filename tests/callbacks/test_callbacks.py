"""The loss curve survives a checkpoint, shown numbers are short, the tracker knows whether somebody is logged in."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from matplotlib.image import imread

from src.callbacks.loggers import is_logged_in
from src.callbacks.loss_curve import LossCurve
from src.callbacks.progress import shown_metrics


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


def test_scores_are_drawn_below_the_losses(tmp_path: Path) -> None:
    curve = LossCurve(str(tmp_path / "curve.png"))
    trainer = SimpleNamespace(
        sanity_checking=False,
        is_global_zero=True,
        global_step=2,
        callback_metrics={"val/zh/loss": torch.tensor(2.6), "val/extraction_f1": torch.tensor(40.0), "val/loss": 1},
    )
    curve.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert curve.scores == {"extraction": [(2, 40.0)]} and curve.validation == {"zh": [(2, pytest.approx(2.6))]}
    with_scores = imread(tmp_path / "curve.png").shape[0]
    resumed = LossCurve(str(tmp_path / "again.png"))
    resumed.load_state_dict(curve.state_dict())
    assert resumed.scores == curve.scores
    resumed.scores = {}
    resumed.draw()
    assert with_scores > 1.4 * imread(tmp_path / "again.png").shape[0]


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


def test_shown_numbers_are_short() -> None:
    class Seen:
        world_size = 2
        logged_metrics: ClassVar = {
            "train/loss": 3.14159,
            "train/zh/loss": 3.5,
            "train/en/loss": 2.5,
            "train/skipped_steps": 0.0,
            "throughput/tokens_per_s_per_device": 1234.5,
            "throughput/mfu": 0.4123,
            "throughput/eta_s": 3725.4,
        }

    shown = shown_metrics(Seen())  # type: ignore[arg-type]
    assert shown["loss"] == "3.142" and shown["zh"] == "3.5" and shown["mfu"] == "41.2%" and shown["eta"] == "1:02:05"
    assert "skipped" not in shown and shown["tok/s/device"] == "1234"  # half to even, as Python rounds
