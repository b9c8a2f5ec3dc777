"""ZeRO on two CPU processes computes what one process computes, saves it, and goes on with it anywhere.

All runs share three starts of processes, one after another: one process (`alone`), two (`pair`), and one again that
goes on with what two saved (`afterwards`); see `zero_worker`. The references run in the test's own process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from src.command import ROOT
from src.models.export import export_checkpoint, export_model
from src.models.load import load_tokenizer
from src.models.spec import ModelSpec
from src.models.zoo import find_model
from tests.strategies import zero_worker
from tests.strategies.plan import SAMPLES, STEPS, Plan

pytestmark = pytest.mark.slow

SAVED, FEW = 16, 6


DISCARD = {"_target_": "tests.strategies.zero_worker.Discard", "step": 3}


@pytest.fixture(scope="module")
def large(llama_tiny: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 200 MB in which no weight is large."""
    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    return export_model(model, load_tokenizer(llama_tiny), tmp_path_factory.mktemp("models") / "large")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, instructions: Path) -> Plan:
    return Plan(tmp_path_factory.mktemp("runs"), pretrained, instructions, SAVED)


@pytest.fixture(scope="module")
def one(plan: Plan) -> Path:
    """One process without DeepSpeed; returns the folder of the runs."""
    plan.add("one_random", "random", "cpu", 1, samples=SAMPLES)
    plan.add("one_pretrained", "pretrained", "cpu", 1)
    plan.add("one_lora", "lora", "cpu", 1)
    plan.add("one_dora", "dora", "cpu", 1)
    plan.add("one_taking", "pretrained", "cpu", 1, f"trainer.max_steps={FEW}")
    plan.add("one_discarding", "pretrained", "cpu", 1, f"trainer.max_steps={FEW}", discard=DISCARD)
    zero_worker.carry_out(plan.write("one"))
    return plan.folder


@pytest.fixture(scope="module")
def alone(plan: Plan) -> Path:
    """One process under ZeRO-3."""
    plan.add("zero3_alone", "random", "deepspeed_zero3", 1)
    zero_worker.start(plan.write("alone"), processes=1)
    return plan.folder


@pytest.fixture(scope="module")
def pair(plan: Plan, alone: Path, large: Path) -> Path:
    """Two processes."""
    weights = {name: str(plan.folder / f"{name}.pt") for name in ("zero3_random", "zero2_random", "zero3_lora")}
    watch = {name: {"_target_": "tests.strategies.zero_worker.Weights", "path": path} for name, path in weights.items()}
    plan.add("ddp_random", "random", "ddp", 2)
    plan.add("zero2_random", "random", "deepspeed_zero2", 2, samples=SAMPLES, export={}, weights=watch["zero2_random"])
    plan.add("zero3_random", "random", "deepspeed_zero3", 2, samples=SAMPLES, export={}, weights=watch["zero3_random"])
    plan.add("zero1_pretrained", "pretrained", "deepspeed_zero2", 2, "trainer.strategy.stage=1")
    plan.add("zero3_pretrained", "pretrained", "deepspeed_zero3", 2)
    plan.add("zero2_lora", "lora", "deepspeed_zero2", 2)
    plan.add("zero3_dora", "dora", "deepspeed_zero3", 2)
    plan.add("zero3_lora", "lora", "deepspeed_zero3", 2, export={}, weights=watch["zero3_lora"])
    for stage in (2, 3):
        more = [f"trainer.max_steps={FEW}"]
        plan.add(f"zero{stage}_discarding", "pretrained", f"deepspeed_zero{stage}", 2, *more, discard=DISCARD)
    resume = {name: f"ckpt_path='{plan.checkpoint(name)}'" for name in ("zero3_alone", "zero3_random", "zero2_random")}
    plan.add("zero3_from_zero3", "random", "deepspeed_zero3", 2, resume["zero3_random"])
    plan.add("zero3_from_alone", "random", "deepspeed_zero3", 2, resume["zero3_alone"])
    plan.add("zero3_from_zero2", "random", "deepspeed_zero3", 2, resume["zero2_random"])
    plan.runs.append({"name": "loading", "load": str(large)})
    zero_worker.start(plan.write("pair"), processes=2)
    return plan.folder


@pytest.fixture(scope="module")
def afterwards(plan: Plan, pair: Path) -> Path:
    """One process that goes on with what two saved."""
    for name, model, stage, source in (
        ("alone_from_zero2", "random", 3, "zero2_random"),
        ("alone_lora_from_zero3", "lora", 2, "zero3_lora"),
    ):
        plan.add(name, model, f"deepspeed_zero{stage}", 1, f"ckpt_path='{plan.checkpoint(source)}'")
    zero_worker.start(plan.write("afterwards"), processes=1)
    return plan.folder


def farthest(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs) > 0
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "run",
    [
        *("ddp_random", "zero2_random", "zero3_random", "zero1_pretrained", "zero3_pretrained"),
        *("zero2_lora", "zero3_lora", "zero3_dora"),
    ],
)
def test_losses_are_those_of_one_process(one: Path, pair: Path, run: str) -> None:
    wanted = zero_worker.losses(one / f"one_{run.split('_')[1]}")
    assert len(wanted) == STEPS and wanted[-1] < wanted[0] - 0.1
    assert farthest(zero_worker.losses(pair / run), wanted) < 1e-5


def test_a_single_process_under_zero_3_has_the_same_losses(one: Path, alone: Path) -> None:
    assert farthest(zero_worker.losses(alone / "zero3_alone"), zero_worker.losses(one / "one_random")) < 1e-5


@pytest.mark.parametrize("run", ["zero2_random", "zero3_random"])
def test_the_gradient_norm_is_logged_as_elsewhere(one: Path, pair: Path, run: str) -> None:
    ours, wanted = (zero_worker.values(folder, "train/grad_norm") for folder in (pair / run, one / "one_random"))
    assert len(ours) == STEPS and min(wanted) > 0.3
    assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("run", ["zero2_random", "zero3_random"])
def test_samples_are_those_of_one_process(one: Path, pair: Path, run: str) -> None:
    ours, wanted = ((folder / "samples.jsonl").read_text() for folder in (pair / run, one / "one_random"))
    assert wanted.count("\n") == 2 and ours == wanted


def test_no_process_holds_the_whole_model_while_it_is_loaded(pair: Path, large: Path) -> None:
    whole = (large / "model.safetensors").stat().st_size
    for rank in (0, 1):
        found = json.loads((pair / "loading" / f"rank_{rank}.json").read_text())
        assert found["own_bytes"] == pytest.approx(whole / 2, rel=0.01)
        assert 0.45 * whole < found["peak_bytes"] < 0.65 * whole


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit(pair: Path) -> None:
    assert zero_worker.losses(pair / "zero3_from_zero3") == zero_worker.losses(pair / "zero3_random")[SAVED:]


@pytest.mark.parametrize(
    ("run", "source"),
    [
        ("zero3_from_alone", "zero3_alone"),
        ("zero3_from_zero2", "zero2_random"),
    ],
)
def test_two_processes_go_on_with_a_checkpoint_of_another_layout(pair: Path, run: str, source: str) -> None:
    assert farthest(zero_worker.losses(pair / run), zero_worker.losses(pair / source)[SAVED:]) < 1e-5


@pytest.mark.parametrize(
    ("run", "source"),
    [
        ("alone_from_zero2", "zero2_random"),
        ("alone_lora_from_zero3", "zero3_lora"),
    ],
)
def test_one_process_goes_on_with_a_checkpoint_of_two(afterwards: Path, run: str, source: str) -> None:
    assert farthest(zero_worker.losses(afterwards / run), zero_worker.losses(afterwards / source)[SAVED:]) < 1e-5
    assert "was saved by 2 processes" in (afterwards / "afterwards.log").read_text()


@pytest.mark.parametrize("stage", [2, 3])
def test_a_discarded_step_leaves_weights_and_moments_as_they_are(one: Path, pair: Path, stage: int) -> None:
    wanted = zero_worker.losses(one / "one_discarding")
    assert farthest(zero_worker.losses(pair / f"zero{stage}_discarding"), wanted) < 1e-6
    taken = zero_worker.losses(one / "one_taking")
    assert wanted[:4] == taken[:4] and abs(wanted[4] - taken[4]) > 1e-3


def exported(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def adapter_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(".default", ""): value for name, value in weights.items() if "lora_" in name}


@pytest.mark.parametrize("run", ["zero2_random", "zero3_random"])
def test_the_export_at_the_end_holds_the_weights_in_memory(pair: Path, run: str) -> None:
    wanted, found = torch.load(pair / f"{run}.pt"), exported(pair / run / "export")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_adapter_exported_at_the_end_is_the_one_in_memory(pair: Path) -> None:
    wanted = adapter_names(torch.load(pair / "zero3_lora.pt"))
    found = exported(pair / "zero3_lora" / "export", "adapter_model")
    assert wanted.keys() == found.keys() and len(wanted) == 28
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("run", ["zero2_random", "zero3_random"])
def test_a_consolidated_checkpoint_holds_the_weights_in_memory(
    plan: Plan, pair: Path, tmp_path: Path, run: str
) -> None:
    folder = export_checkpoint(find_model("llama_tiny"), plan.checkpoint(run, STEPS), tmp_path / "export")
    wanted, found = torch.load(pair / f"{run}.pt"), exported(folder)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_consolidated_adapter_is_the_one_in_memory(plan: Plan, pair: Path, pretrained: Path, tmp_path: Path) -> None:
    spec = ModelSpec(path=str(pretrained))
    folder = export_checkpoint(spec, plan.checkpoint("zero3_lora", STEPS), tmp_path / "export")
    wanted, found = adapter_names(torch.load(pair / "zero3_lora.pt")), exported(folder, "adapter_model")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_command_line_starts_the_processes_itself(pretrained: Path, instructions: Path, tmp_path: Path) -> None:
    settings = [
        "data.max_length=64",
        "data.micro_batch_size=1",
        "data.global_batch_size=4",
        "trainer.precision=32-true",
    ]
    settings += ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "callbacks.samples=null", "logger=csv"]
    settings += ["trainer=deepspeed_zero3", "trainer.accelerator=cpu", "trainer.devices=2", "validate_before=true"]
    data = [f"model='{pretrained}'", f"data.train='{instructions}'", f"hydra.run.dir='{tmp_path / 'run'}'"]
    environment = {key: value for key, value in os.environ.items() if key != "DS_ACCELERATOR"} | {
        "OMP_NUM_THREADS": "1"
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "experiment=sft_demo", *settings, *data],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["val/loss"] < metrics["before/val/loss"]  # validating first leaves an engine without an optimizer
    assert (tmp_path / "run" / "export" / "adapter_model.safetensors").is_file()
