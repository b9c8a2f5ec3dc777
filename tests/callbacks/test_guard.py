"""Steps that would spoil the weights are left out, on all processes alike, and a hopeless run stops."""

import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from src.callbacks.guard import Guard, last_checkpoint_before
from src.callbacks.step_guard import APPLIED, NOT_FINITE, OVERFLOW, SPIKE, Diverged, StepGuard, decision, withhold
from src.command import _sentences
from src.errors import UserError
from src.models.spec import ModelSpec
from src.modules.optimizer import AdamW
from tests.callbacks.poison import digest
from tests.strategies import zero_worker

SPOILED = 3  # the step that is poisoned, counted from 1
STEPS = 6


def verdicts(guard: StepGuard, steps: list[tuple[float, float]]) -> list[int]:
    return [
        decision(number, guard.decide(torch.tensor(loss), torch.tensor(norm))[1]).verdict
        for number, (loss, norm) in enumerate(steps, 1)
    ]


def usual(steps: int, seed: int = 0) -> list[tuple[float, float]]:
    """Losses and norms of a run in which nothing happens."""
    noise = torch.randn(steps, 2, generator=torch.Generator().manual_seed(seed))
    return [(3 + 0.05 * float(a), 0.5 * math.exp(0.2 * float(b))) for a, b in noise]


@pytest.mark.parametrize("name", ["pretraining", "tuning"])
def test_no_step_of_a_recorded_healthy_run_is_skipped(name: str) -> None:
    with gzip.open(Path(__file__).with_name("healthy_runs.csv.gz"), "rt") as file:
        rows = [row for row in csv.DictReader(io.StringIO(file.read())) if row["run"] == name]
    steps = [(float(row["loss"]), float(row["grad_norm"])) for row in rows]
    assert len(steps) >= 400
    assert set(verdicts(StepGuard(), steps)) == {APPLIED}


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (3.0, math.nan), (math.inf, 1.0), (3.0, math.inf)])
def test_a_value_that_is_not_finite_is_skipped_from_the_first_step_on(bad: tuple[float, float]) -> None:
    assert verdicts(StepGuard(), [bad, (3.0, 0.5), bad]) == [NOT_FINITE, APPLIED, NOT_FINITE]


@pytest.mark.parametrize("spike", [(5.0, 0.5), (3.0, 5.0)])
def test_a_spike_is_skipped_and_does_not_hide_the_next_one(spike: tuple[float, float]) -> None:
    found = verdicts(StepGuard(), [*usual(100), spike, spike, *usual(5, seed=1)])
    assert found == [APPLIED] * 100 + [SPIKE] * 2 + [APPLIED] * 5


def test_there_are_no_spikes_before_half_of_the_window_is_there() -> None:
    assert verdicts(StepGuard(window=128), [*usual(63), (9.0, 9.0)])[-1] == APPLIED
    assert verdicts(StepGuard(window=128), [*usual(64), (9.0, 9.0)])[-1] == SPIKE


def test_without_sigma_only_values_that_are_not_finite_are_skipped() -> None:
    assert verdicts(StepGuard(sigma=None), [*usual(100), (90.0, 90.0), (math.nan, 1.0)])[-2:] == [APPLIED, NOT_FINITE]


def test_a_falling_loss_and_a_memorised_one_are_no_spikes() -> None:
    falling = [(10 * 0.97**step, 0.5) for step in range(300)]
    assert set(verdicts(StepGuard(), falling)) == {APPLIED}
    alike = [(1e-3 * (1 + 0.1 * (step % 7 == 0)), 1e-2) for step in range(300)]
    assert set(verdicts(StepGuard(), alike)) == {APPLIED}


def test_an_unknown_norm_leaves_the_decision_to_the_loss() -> None:
    guard = StepGuard()
    for loss, _ in usual(100):
        assert not guard.decide(torch.tensor(loss), None)[0]
    assert guard.decide(torch.tensor(5.0), None)[0]


def test_a_resumed_history_decides_as_an_uninterrupted_one() -> None:
    steps = [*usual(150), (3.3, 0.6), *usual(40, seed=2)]
    whole, half, resumed = StepGuard(sigma=2, window=32), StepGuard(sigma=2, window=32), StepGuard(sigma=2, window=32)
    wanted = verdicts(whole, steps)
    verdicts(half, steps[:77])
    resumed.load_state_dict(half.state_dict())
    assert SPIKE in wanted[77:] and verdicts(resumed, steps[77:]) == wanted[77:]
    assert torch.equal(resumed.state_dict()["history"], whole.state_dict()["history"])


@pytest.mark.parametrize("window", [16, 200])
def test_a_history_of_another_window_goes_on_with_its_newest_steps(window: int) -> None:
    old, new = StepGuard(window=32), StepGuard(window=window)
    verdicts(old, usual(50))
    new.load_state_dict(old.state_dict())
    held = min(window, 32)
    wanted = torch.tensor(usual(50))[50 - held :].T
    assert torch.allclose(new.state_dict()["history"][:, :held], wanted)


@pytest.mark.parametrize("fused", [True, False])
def test_a_withheld_step_leaves_weights_moments_and_step_counts_alone(fused: bool) -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(7, 5)), torch.nn.Parameter(torch.randn(3))]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=fused)

    def step(factor: float, skip: float) -> list[str]:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter) * factor
        withhold(optimizer, torch.tensor(skip))
        optimizer.step()
        moments = [value for values in optimizer.state.values() for value in values.values()]
        return [digest(parameters), digest(moments)]

    before = step(1.0, 0.0)
    assert step(math.nan, 1.0) == before
    after = step(1.0, 0.0)
    assert after[0] != before[0] and after[1] != before[1]
    assert {float(values["step"]) for values in optimizer.state.values()} == {2.0}


def test_why_a_step_was_skipped_is_told_in_numbers() -> None:
    guard = StepGuard()
    for loss, norm in usual(100):
        guard.decide(torch.tensor(loss), torch.tensor(norm))
    found = decision(101, guard.decide(torch.tensor(3.0), torch.tensor(50.0))[1])
    assert found.why.startswith("the gradient norm, 50, is a spike: 0.4973 is usual and 1.738")
    assert decision(1, guard.decide(torch.tensor(math.nan), torch.tensor(1.0))[1]).why == "the loss is nan"
    overflown = decision(1, guard.decide(torch.tensor(3.0), torch.tensor(math.inf), overflow=True)[1])
    assert overflown.verdict == OVERFLOW and "fp16" in overflown.why


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"sigma": 0}, "guard.sigma must be a positive number or null"),
        ({"sigma": "six"}, "guard.sigma must be a positive number or null"),
        ({"window": 2}, "guard.window must be a whole number of at least 4"),
        ({"max_in_row": 0}, "guard.max_in_row must be a whole number of at least 1"),
    ],
)
def test_an_impossible_setting_is_one_sentence(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Guard(**setting)


# Loss scaling of fp16, which Lightning allows on the CPU only when asked like this


class Scaled(L.LightningModule):
    """A layer whose gradients are NaN in every step if ``broken``."""

    def __init__(self, guard: Guard, broken: bool) -> None:
        super().__init__()
        self.guard, self.broken, self.layer = guard, broken, torch.nn.Linear(4, 4)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        hidden = self.layer(batch)
        if self.broken:
            hidden.register_hook(lambda gradient: gradient * math.nan)
        self.loss = hidden.float().square().mean()
        return self.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return AdamW(lr=0.01).build(self, gradients_are_scaled=True)

    def configure_gradient_clipping(self, optimizer: Any, *settings: Any, **named: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.guard.before_step(self.trainer, optimizer, self.loss, norm)


def train_scaled(scale: float, steps: int, guard: Guard, broken: bool = False) -> tuple[Scaled, float]:
    """A run of a few steps; the module and the scale at its end."""
    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module = Scaled(guard, broken)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        callbacks=[guard],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.ones(steps, 4), batch_size=1))
    return module, scaler.get_scale()


def test_steps_that_seek_the_loss_scale_are_no_divergence(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(max_in_row=2)
    _, scale = train_scaled(2.0**24, 30, guard)
    assert scale < 2.0**22  # more than two steps in a row overflowed
    assert 2 < float(guard.steps.skipped) < 30
    assert "skipped" not in caplog.text


def test_gradients_that_overflow_at_any_loss_scale_stop_the_run() -> None:
    with pytest.raises(Diverged, match=r"the 3 optimizer steps from 4 to 6 were all skipped.*gradient norm is nan"):
        train_scaled(8.0, 20, Guard(max_in_row=3), broken=True)


# Whole runs


class Runs:
    """Training runs of a few steps, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "sums.jsonl"
        rows = [{"instruction": f"Add {n} and {n * 7 % 13}.", "output": f"{n + n * 7 % 13}!"} for n in range(100)]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(self, name: str, *overrides: str, **callbacks: dict[str, Any]) -> dict[str, Any]:
        """One run of a plan for `zero_worker`."""
        settings = [
            "experiment=sft_demo",
            "adapter=none",
            "model=llama_tiny",
            f"data.train={self.data}",
            "data.max_length=64",
            "data.micro_batch_size=1",
            "data.global_batch_size=4",
            "trainer.precision=32-true",
            f"trainer.max_steps={STEPS}",
            f"trainer.val_every_n_steps={STEPS}",
            "trainer.limit_val_batches=0",
            "validate_before=false",
            "save_last=false",
            *overrides,
        ]
        folder = str(self.folder / name)
        witness = {"_target_": "tests.callbacks.poison.Witness", "folder": folder}
        losses = {"_target_": "tests.strategies.zero_worker.Losses", "folder": folder}
        return {
            "name": name,
            "overrides": settings,
            "callbacks": {"metrics": {}, **callbacks, "losses": losses, "witness": witness},
        }

    def plan(self, name: str, *runs: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(list(runs)))
        return path

    def found(self, name: str, rank: int = 0) -> dict[str, Any]:
        return json.loads((self.folder / name / f"witness_{rank}.json").read_text())


def poison(kind: str, steps: list[int], rank: int = 0) -> dict[str, Any]:
    return {"_target_": "tests.callbacks.poison.Poison", "kind": kind, "steps": steps, "rank": rank}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, llama_tiny: ModelSpec) -> Runs:
    return Runs(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def one(runs: Runs) -> Runs:
    """One process: a run in which the step is left out by hand, and runs in which the guard has to do it."""
    by_hand = {"_target_": "tests.strategies.zero_worker.Discard", "step": SPOILED - 1}
    clip = "trainer.gradient_clip_val=null"
    window: dict[str, Any] = {"window": 4, "sigma": 8}
    spoiled = {"guard": window, "poison": poison("loss", [SPOILED])}
    keep = {"every_n_steps": 4}
    plan = runs.plan(
        "one",
        runs.run("by_hand", discard=by_hand),
        runs.run("loss", guard={}, poison=poison("loss", [SPOILED])),
        runs.run("gradient", guard={}, poison=poison("gradient", [SPOILED])),
        runs.run("spike", guard=window, poison=poison("spike", [SPOILED])),
        runs.run("slow_optimizer", "optimizer.fused=false", guard={}, poison=poison("loss", [SPOILED])),
        runs.run("by_hand_unclipped", clip, discard=by_hand),
        runs.run("unclipped", clip, guard={}, poison=poison("loss", [SPOILED])),
        runs.run("whole", guard={**spoiled["guard"]}, poison=poison("loss", [2, 5]), last=keep),
        runs.run(
            "resumed",
            f"ckpt_path={runs.folder / 'whole' / 'checkpoints' / 'step_00000004.ckpt'}",
            guard=window,
            poison=poison("loss", [2, 5]),
        ),
    )
    zero_worker.carry_out(plan)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "gradient", "spike", "slow_optimizer", "unclipped"])
def test_a_skipped_step_changes_neither_weights_nor_moments(one: Runs, name: str) -> None:
    found = one.found(name)
    for kind in ("weights", "moments"):
        before, after, later = found[kind][SPOILED - 2 : SPOILED + 1]
        assert after == before and later != after
    assert found["skipped"] == [0, 0, 1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("loss", "by_hand"), ("gradient", "by_hand"), ("spike", "by_hand"), ("unclipped", "by_hand_unclipped")],
)
def test_the_run_ends_as_one_without_this_update(one: Runs, name: str, wanted: str) -> None:
    found, by_hand = one.found(name), one.found(wanted)
    assert found["weights"][-1] == by_hand["weights"][-1] and found["moments"][-1] == by_hand["moments"][-1]


@pytest.mark.slow
def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(one: Runs) -> None:
    whole, resumed = one.found("whole"), one.found("resumed")
    assert resumed["guard"] == whole["guard"] and whole["guard"]["skipped"] == 2
    assert resumed["weights"][-1] == whole["weights"][-1]


@pytest.mark.slow
def test_a_hopeless_run_stops_and_names_the_checkpoint_from_before_its_last_update(one: Runs) -> None:
    guard = {"max_in_row": 2}
    run = one.run("hopeless", guard=guard, poison=poison("loss", [4, 5, 6]), last={"every_n_steps": 1, "keep_last": 9})
    with pytest.raises(Diverged) as stop:
        zero_worker.carry_out(one.plan("hopeless", run))
    said = str(stop.value)
    assert "the 2 optimizer steps from 4 to 5 were all skipped" in said and "because the loss is nan" in said
    assert str(one.folder / "hopeless" / "checkpoints" / "step_00000002.ckpt") in said and "lower optimizer.lr" in said
    assert stop.value.exit_status == 3


def test_the_command_of_a_hopeless_run_ends_with_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, _sentences("train", False):
        raise Diverged("training diverged")
    assert stop.value.code == 3 and capsys.readouterr().err == "error: training diverged\n"


def test_a_checkpoint_without_its_manifest_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "step_00000002.ckpt").write_bytes(b"half")
    assert last_checkpoint_before(tmp_path, 9) is None


@pytest.fixture(scope="module")
def pair(one: Runs) -> Runs:
    """Two processes of which the second one alone meets the fault."""
    spoiled = {"guard": {}, "poison": poison("loss", [SPOILED], rank=1)}
    two = ["trainer.accelerator=cpu", "trainer.devices=2"]
    plan = one.plan(
        "pair",
        *(
            one.run(name, f"trainer={trainer}", *two, **spoiled)
            for name, trainer in [
                ("ddp", "ddp"),
                ("fsdp2", "fsdp2"),
                ("zero2", "deepspeed_zero2"),
                ("zero3", "deepspeed_zero3"),
            ]
        ),
        *(
            one.run(
                f"zero{stage}_gradient",
                f"trainer=deepspeed_zero{stage}",
                *two,
                guard={},
                poison=poison("gradient", [SPOILED], rank=1),
            )
            for stage in (2, 3)
        ),
    )
    zero_worker.start(plan, processes=2)
    return one


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_fault_of_one_process_makes_all_of_them_skip(pair: Runs, name: str) -> None:
    for rank in (0, 1):
        found = pair.found(name, rank)
        assert found["skipped"] == [0, 0, 1, 1, 1, 1]
        kinds = ["moments"] if name == "zero3" else ["moments", "weights"]  # ZeRO-3 keeps no weights between steps
        for before, after, later in (found[kind][SPOILED - 2 : SPOILED + 1] for kind in kinds):
            assert after == before and later != after


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_a_norm_that_deepspeed_alone_sees_is_skipped_said_and_counted(pair: Runs, stage: int) -> None:
    name = f"zero{stage}_gradient"
    moments = pair.found(name)["moments"]
    assert moments[SPOILED - 1] == moments[SPOILED - 2] != moments[SPOILED]
    assert pair.found(name)["skipped"] == [0, 0, 0, 1, 1, 1]  # logged before the step is made
    losses, wanted = (zero_worker.losses(pair.folder / run) for run in (name, "by_hand"))
    assert losses == pytest.approx(wanted, abs=1e-5)  # the loss of the step itself is finite
    assert "the gradient norm is inf" in (pair.folder / "pair.log").read_text()


@pytest.mark.slow
def test_processes_with_the_whole_model_stay_equal_bit_by_bit(pair: Runs) -> None:
    assert pair.found("ddp", 0)["weights"] == pair.found("ddp", 1)["weights"]
    assert pair.found("ddp", 0)["moments"] == pair.found("ddp", 1)["moments"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_go_on_like_one_that_leaves_the_step_out(pair: Runs, name: str) -> None:
    wanted = zero_worker.losses(pair.folder / "by_hand")
    found = zero_worker.losses(pair.folder / name)
    assert math.isnan(found[SPOILED - 1])
    assert found[SPOILED:] == pytest.approx(wanted[SPOILED:], abs=1e-5)
