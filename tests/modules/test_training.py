"""What a run computes: packed rows equal separate ones, resumed equals uninterrupted, two processes equal one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from src.datamodules.batches import IGNORED, packed_row
from src.datamodules.sft import EncodedExamples
from src.models.load import load_for_generation, load_model, load_tokenizer
from src.models.spec import ModelSpec
from src.modules.loss import logits_of, token_losses
from src.training import train

Compose = Callable[[Sequence[str]], DictConfig]


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {
            "instruction": f"Add {n} and {n * 7 % 13}." + " Please." * (n % 5),
            "input": "",
            "output": f"{n + n * 7 % 13}!",
        }
        for n in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_run(compose_train: Compose, instructions: Path, *more: str) -> DictConfig:
    return compose_train(
        [
            "experiment=sft_demo",
            "model=llama_tiny",
            f"data.train={instructions}",
            "data.max_length=64",
            "data.micro_batch_size=1",
            "data.global_batch_size=4",
            "trainer.precision=32-true",
            "trainer.max_steps=6",
            "trainer.val_every_n_steps=3",
            "adapter.dropout=0",
            "validate_before=false",
            "callbacks.samples=null",
            "callbacks.export=null",
            "callbacks.best=null",
            *more,
        ]
    )


def examples(lengths: list[int], vocabulary: int) -> EncodedExamples:
    ids = np.random.default_rng(0).integers(5, vocabulary, sum(lengths)).astype(np.int32)
    return EncodedExamples(ids, ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@pytest.mark.slow
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager", "packed_varlen"])
def test_packed_logits_equal_unpacked_logits(llama_tiny: ModelSpec, attn_implementation: str) -> None:
    model = load_model(llama_tiny, attn_implementation=attn_implementation).train()
    lengths = [37, 5, 1, 54]
    segments = examples(lengths, model.config.vocab_size)
    row = packed_row(segments, np.arange(4), 128, pad_id=0)
    packed = logits_of(model, {key: value[None] for key, value in row.items()})[0]
    start = 0
    for index, length in enumerate(lengths):
        alone = {"input_ids": torch.from_numpy(segments.tokens(index).astype(np.int64))[None]}
        alone["position_ids"] = torch.arange(length)[None]
        assert (logits_of(model, alone)[0] - packed[start : start + length]).abs().max() < 1e-4
        start += length


@pytest.mark.slow
def test_packed_logits_equal_unpacked_logits_of_the_real_model(smollm2: ModelSpec) -> None:
    model = load_model(smollm2)
    lengths = [37, 20, 54]
    segments = examples(lengths, model.config.vocab_size)
    row = packed_row(segments, np.arange(3), 128, pad_id=0)
    packed = logits_of(model, {key: value[None] for key, value in row.items()})[0]
    last = torch.from_numpy(segments.tokens(2).astype(np.int64))[None]
    alone = logits_of(model, {"input_ids": last, "position_ids": torch.arange(54)[None]})[0]
    assert (alone - packed[57:111]).abs().max() < 1e-4


def test_losses_of_supervised_rows_equal_those_of_all_logits(llama_tiny: ModelSpec) -> None:
    model = load_model(llama_tiny)
    row = packed_row(examples([30, 20], model.config.vocab_size), np.arange(2), 64, pad_id=0)
    batch = {key: value[None] for key, value in row.items()}
    batch["labels"][0, 5:15] = IGNORED
    losses, targets = token_losses(model, batch)
    logits = logits_of(model, batch)[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, batch["labels"][0, 1:], ignore_index=IGNORED, reduction="none")
    supervised = batch["labels"][0, 1:] != IGNORED
    assert targets.tolist() == batch["labels"][0, 1:][supervised].tolist()
    torch.testing.assert_close(losses, wanted[supervised])


@pytest.mark.slow
def test_a_resumed_run_lands_on_the_uninterrupted_loss(
    compose_train: Compose, instructions: Path, tmp_path: Path
) -> None:
    whole = train(tiny_run(compose_train, instructions))
    checkpoints = tmp_path / "half"
    keep = ["callbacks.last.every_n_steps=3", f"callbacks.last.folder={checkpoints}"]
    train(tiny_run(compose_train, instructions, *keep))
    half_checkpoint = checkpoints / "step_00000003.ckpt"
    resumed = train(tiny_run(compose_train, instructions, f"ckpt_path='{half_checkpoint}'"))
    assert resumed["val/loss"] == pytest.approx(whole["val/loss"], abs=1e-6)
    assert resumed["train/loss"] == pytest.approx(whole["train/loss"], abs=1e-6)


@pytest.mark.slow
def test_micro_batches_of_another_size_give_the_same_losses(compose_train: Compose, instructions: Path) -> None:
    ones = train(tiny_run(compose_train, instructions))
    fours = train(tiny_run(compose_train, instructions, "data.micro_batch_size=4"))
    assert fours["val/loss"] == pytest.approx(ones["val/loss"], abs=1e-5)


@pytest.mark.slow
def test_recomputed_activations_give_the_same_losses(compose_train: Compose, instructions: Path) -> None:
    kept = train(tiny_run(compose_train, instructions))
    recomputed = train(tiny_run(compose_train, instructions, "module.activation_checkpointing=full"))
    assert recomputed["val/loss"] == pytest.approx(kept["val/loss"], abs=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_an_adapter_holds_the_adapter_only(compose_train: Compose, instructions: Path) -> None:
    cfg = tiny_run(compose_train, instructions, "trainer.max_steps=1")
    train(cfg)
    state = torch.load(Path(cfg.paths.output_dir, "checkpoints", "last.ckpt"), weights_only=False)["state_dict"]
    assert state and all("lora_" in name for name in state)


@pytest.mark.slow
def test_qlora_trains_saves_and_exports_its_adapter_only(
    compose_train: Compose, instructions: Path, llama_tiny: ModelSpec, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    base = tmp_path / "base"
    load_model(llama_tiny).save_pretrained(base)  # quantisation wants weights in files
    load_tokenizer(llama_tiny).save_pretrained(base)
    export = {"_target_": "src.callbacks.export.Export", "folder": str(tmp_path / "export")}
    cfg = tiny_run(compose_train, instructions, "model=custom", f"model.path='{base}'", "adapter=qlora")
    cfg.callbacks.export = export
    cfg.validate_before, cfg.trainer.precision = True, "bf16-mixed"
    metrics = train(cfg)
    assert metrics["val/loss"] < metrics["before/val/loss"]
    saved = torch.load(Path(cfg.paths.output_dir, "checkpoints", "last.ckpt"), weights_only=False)["state_dict"]
    assert saved and all("lora_" in name for name in saved)
    adapted = load_for_generation(ModelSpec(path=str(base)), tmp_path / "export")[0]
    assert any("lora_B" in name and parameter.any() for name, parameter in adapted.named_parameters())
