"""Decay groups and learning-rate schedules."""

import pytest
import torch
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from torch import nn

from src.errors import UserError
from src.modules.optimizer import AdamW, Schedule, decay_groups


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model[0].weight.requires_grad_(True)
    groups = decay_groups(model, 0.1)
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 4)
    model.weight.requires_grad_(False)
    assert [len(group["params"]) for group in decay_groups(model, 0.1)] == [1]


def test_fused_adamw_steps_like_the_plain_one() -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        optimizer = AdamW(lr=0.1, fused=fused).build(model)
        for _ in range(3):
            model(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)


def test_with_scaled_gradients_fused_adamw_clips_and_steps_like_without_a_scale() -> None:
    results = []
    for scaled in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        optimizer = AdamW(lr=0.1).build(model, gradients_are_scaled=scaled)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        for _ in range(3):
            loss = model(torch.ones(2, 8)).square().sum()
            scaler.scale(loss).backward()
            if not _optimizer_handles_unscaling(optimizer):  # what Lightning does before it clips
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("name", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)])
def test_schedules_warm_up_and_decay(name: str, middle: float, end: float) -> None:
    schedule = Schedule(name, warmup_steps=10, min_lr_ratio=0.1)
    assert [schedule.factor(step, 110) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule.factor(60, 110) == pytest.approx(middle)
    assert schedule.factor(110, 110) == pytest.approx(end)


def test_a_warm_up_below_one_is_a_share_of_the_run() -> None:
    assert Schedule(warmup_steps=0.1).factor(9, 100) == 1.0 and Schedule(warmup_steps=0.1).factor(4, 100) == 0.5


@pytest.mark.parametrize("lr", [0, -1e-4, "abc", None, True])
def test_impossible_learning_rates_are_refused(lr: object) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr must be a positive number"):
        AdamW(lr=lr)  # type: ignore[arg-type]


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(UserError, match="cosine, linear or constant"):
        Schedule("step")
