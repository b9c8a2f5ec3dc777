"""The two demo experiments as commands, two steps of each on the real model, and what they leave for other tools."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.command import ROOT
from src.models.spec import ModelSpec

pytestmark = pytest.mark.slow
PROMPT = "春風 import sys"


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "WANDB_MODE": "offline"}
    command = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def logits(model: torch.nn.Module, tokenizer: object) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokenizer(PROMPT, return_tensors="pt")).logits  # type: ignore[operator]


@pytest.fixture(scope="module")
def shards(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards of the demo")
    run("scripts/preprocess.py", f"output_dir='{folder}'", f"paths.data_dir='{folder.parent / 'data'}'")
    return folder


@pytest.fixture(scope="module")
def pretraining(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a run") / "pretrain"
    steps = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "data.validation_rows=1", "callbacks.best=null"]
    run("train.py", "experiment=pretrain_demo", f"mix.shards_dir='{shards}'", f"hydra.run.dir='{folder}'", *steps)
    return folder


def test_two_steps_of_pretraining_lower_the_bits_per_byte(pretraining: Path) -> None:
    values = metrics(pretraining)
    assert values["val/bits_per_byte"] < values["before/val/bits_per_byte"]
    assert all(values[f"val/{source}/bits_per_byte"] > 0 for source in ("zh", "en", "code"))


def test_a_run_folder_holds_what_people_look_at(pretraining: Path) -> None:
    assert (pretraining / "loss_curve.png").stat().st_size > 5000
    rows = [json.loads(line) for line in (pretraining / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["step"] for row in rows} == {0, 2} and len(rows) == 6
    assert "train/loss" in (pretraining / "metrics.csv").read_text()
    assert list((pretraining / "wandb").glob("offline-run-*"))
    assert (pretraining / ".hydra" / "overrides.yaml").exists()


def test_the_export_is_the_trained_model_in_plain_transformers(pretraining: Path, tmp_path: Path) -> None:
    checkpoint = pretraining / "checkpoints" / "last.ckpt"
    run("scripts/export.py", "model=smollm2_135m", f"checkpoint='{checkpoint}'", f"output='{tmp_path / 'again'}'")
    state = torch.load(checkpoint, weights_only=True, mmap=True)["state_dict"]
    exported = AutoModelForCausalLM.from_pretrained(pretraining / "export", dtype=torch.float32)
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in exported.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(pretraining / "export")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(logits(exported, tokenizer), logits(again, tokenizer))


def test_two_steps_of_tuning_and_the_adapter_in_plain_peft(
    smollm2: ModelSpec, smollm2_dir: Path, tmp_path: Path
) -> None:
    data, folder = tmp_path / "instructions", tmp_path / "tune"
    run("scripts/make_instructions.py", "n_train=60", "n_test=4", f"output='{data}'")
    steps = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "data.validation_rows=1"]
    run("train.py", "experiment=sft_demo", f"data.train='{data / 'train.jsonl'}'", f"hydra.run.dir='{folder}'", *steps)
    values = metrics(folder)
    assert values["val/loss"] < values["before/val/loss"]

    base = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    plain = logits(base, tokenizer)
    tuned = logits(PeftModel.from_pretrained(base, folder / "export"), tokenizer)
    assert (tuned - plain).abs().max() > 1e-3
    checkpoint = folder / "checkpoints" / "last.ckpt"
    run("scripts/export.py", "model=smollm2_135m", f"checkpoint='{checkpoint}'", f"output='{tmp_path / 'again'}'")
    fresh = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    again = logits(PeftModel.from_pretrained(fresh, tmp_path / "again"), tokenizer)
    assert torch.equal(tuned, again)

    answers = ["decoding.max_new_tokens=8", "limit=2", f"output='{tmp_path / 'scores'}'"]
    test_file, adapter = f"records='{data / 'test.jsonl'}'", f"adapter_path='{folder / 'export'}'"
    assert "exact match" in run("scripts/evaluate.py", test_file, adapter, *answers)
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["scores"]["all"]["records"] == 2
    written = run(
        "generate.py", "instruction=抽取三元组", "input=何明光生于长田市。", adapter, "decoding.max_new_tokens=8"
    )
    assert written.strip()


def test_pretraining_resumed_from_a_checkpoint_ends_like_an_uninterrupted_run(
    shards: Path, llama_tiny: ModelSpec, tmp_path: Path
) -> None:
    settings = [
        "experiment=pretrain_demo",
        "model=llama_tiny",
        f"mix.shards_dir='{shards}'",
        "data.micro_batch_size=1",
        "data.global_batch_size=4",
        "data.validation_rows=2",
        "trainer.precision=32-true",
        "trainer.val_every_n_steps=4",
        "validate_before=false",
        "callbacks.samples=null",
        "callbacks.best=null",
        "logger=csv",
    ]
    # the schedule must be that of the whole run, so the first half is a whole run that keeps its second checkpoint
    keep = "callbacks.last.every_n_steps=2"
    run("train.py", *settings, "trainer.max_steps=4", f"hydra.run.dir='{tmp_path / 'whole'}'", keep)
    checkpoint = tmp_path / "whole" / "checkpoints" / "step_00000002.ckpt"
    resume = f"ckpt_path='{checkpoint}'"
    run("train.py", *settings, "trainer.max_steps=4", f"hydra.run.dir='{tmp_path / 'resumed'}'", resume)
    whole, resumed = metrics(tmp_path / "whole"), metrics(tmp_path / "resumed")
    for source in ("zh", "en", "code"):
        assert resumed[f"val/{source}/loss"] == pytest.approx(whole[f"val/{source}/loss"], abs=1e-6)
