"""Decay groups and learning-rate schedules."""

import pytest
import torch
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from src.errors import UserError
from src.modules.optimizer import AdamW, Schedule, decay_groups, restore_settings, settings_of


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


def loaded(old: AdamW, new: AdamW, steps: int = 3) -> tuple[torch.optim.Optimizer, LambdaLR, list[str]]:
    """An optimizer of ``new`` settings into which a checkpoint made with ``old`` ones was loaded, as a run does it."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizers = [settings.build(model) for settings in (old, new)]
    schedules = [Schedule("linear", 2, 0.0).build(optimizer, 10) for optimizer in optimizers]
    for _ in range(steps):
        model(torch.ones(2, 4)).square().sum().backward()
        optimizers[0].step()
        schedules[0].step()
    wanted = settings_of(optimizers[1])
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    schedules[1].load_state_dict(schedules[0].state_dict())
    return optimizers[1], schedules[1], restore_settings(optimizers[1], schedules[1], wanted)


def test_a_resumed_optimizer_has_the_settings_of_the_new_run() -> None:
    new = AdamW(lr=5e-4, betas=(0.8, 0.9), weight_decay=0.2, fused=False)
    optimizer, schedule, changed = loaded(AdamW(lr=1e-3), new)
    assert changed[0] == "lr 0.0005 (was 0.001)" and len(changed) == 4
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    for group in optimizer.param_groups:
        assert group["betas"] == (0.8, 0.9) and group["fused"] is False
        assert group["lr"] == 5e-4 * schedule.lr_lambdas[0](3)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [5e-4 * schedule.lr_lambdas[0](4)] * 2
    state = next(iter(optimizer.state.values()))
    assert int(state["step"]) == 4  # the moments are those of the checkpoint


def test_the_same_settings_change_no_number_of_a_resumed_optimizer() -> None:
    same = AdamW(lr=1e-3)
    optimizer, schedule, changed = loaded(same, same)
    assert changed == []
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3 * schedule.lr_lambdas[0](3)] * 2
