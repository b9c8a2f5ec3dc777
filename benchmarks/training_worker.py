#!/usr/bin/env python
"""One training loop in a process of its own, as `training_turns.Contestant` starts it: ours, a bare one, or the peer's.

    python benchmarks/training_worker.py SETTINGS.json FILE_DESCRIPTOR

All of them are described by one composed ``configs/train.yaml`` and read the segments of its data module, so that
model, documents, optimizer and precision are the same. ``ours`` is ``train.py`` itself with the callbacks and loggers a
user gets; ``bare`` is the loop of a PyTorch tutorial over our packed rows, ``bare_same_loss`` the same loop with our
model and loss; ``hf`` is a Hugging Face ``Trainer`` that pads every batch to its longest segment.
"""

import os

os.environ |= {"WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}

import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn
from torch.utils.data import Dataset
from training_turns import TURNS, HuggingFaceTurns, peak_memory_gb
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from src.command import CONFIGS
from src.datamodules.batches import Segments
from src.datamodules.packed import PackedDataModule
from src.models.load import load_model, load_tokenizer
from src.models.spec import ModelSpec
from src.modules.causal_lm import CausalLM
from src.modules.loss import supervised_loss
from src.strategies.hardware import peak_flops
from src.training import build, train

HELD_OUT_SEGMENTS = 24


@dataclass(frozen=True)
class Settings:
    """What a worker is told.

    loop: a name in `LOOPS`.
    overrides: of ``configs/train.yaml``, as on the command line.
    replaced: config groups that are replaced as a whole, by their names.
    steps_per_turn: optimizer steps between two waits.
    device: cpu or cuda.
    evaluate: measure the loss on the held-out segments at the end.
    hf_batch_size, hf_accumulation: of the peer: segments at once, and micro-batches in an optimizer step.
    hf_collator: how the peer makes a batch of segments: ``language_modeling``, ``seq2seq`` (with labels of its own), or
        ``stack`` for segments of one length.
    hf_arguments: further ``TrainingArguments``.
    """

    loop: str
    overrides: list[str]
    output_dir: str
    replaced: dict[str, Any] = field(default_factory=dict)
    steps_per_turn: int = 1
    device: str = "cpu"
    evaluate: bool = False
    hf_batch_size: int = 8
    hf_accumulation: int = 1
    hf_collator: str = "language_modeling"
    hf_arguments: dict[str, Any] = field(default_factory=dict)


def composed(settings: Settings) -> DictConfig:
    """The training config, with nothing written at the end: exports and checkpoints are not what is measured."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=["logger=csv", "save_last=false", *settings.overrides])
    with open_dict(cfg):
        for group, value in settings.replaced.items():
            cfg[group] = value
        cfg.paths.output_dir = settings.output_dir
        cfg.callbacks = {
            "turns": {"_target_": "training_turns.LightningTurns"},  # first: the others' work is within its turns
            **{name: None if name == "export" else value for name, value in cfg.callbacks.items()},
        }
    Path(settings.output_dir).mkdir(parents=True)
    OmegaConf.resolve(cfg)
    return cfg


def run_ours(cfg: DictConfig, settings: Settings) -> nn.Module:
    """``train.py`` as it is."""
    train(cfg)
    return TURNS.model


def run_bare(cfg: DictConfig, settings: Settings, same_loss: bool = False) -> nn.Module:
    """The shortest loop that trains the same model on the same packed rows.

    Args:
        same_loss: our model and loss, so that only the loop differs; else Hugging Face's model as it comes, and the
            cross-entropy of all logits.
    """
    datamodule, module = _data_and_module(cfg)
    device = torch.device(settings.device)
    model = module.build() if same_loss else _plain_model(cfg, module)
    model = model.to(device).train()
    optimizer = module.optimizer_settings.build(model)
    scheduler = module.schedule.build(optimizer, cfg.trainer.max_steps)
    accumulation = datamodule.micro_batches(1)
    batches = iter(datamodule.train_dataloader())
    for _ in range(cfg.trainer.max_steps):
        TURNS.begin()
        step_loss = torch.zeros((), device=device)
        for _ in range(accumulation):
            batch = datamodule.transfer_batch_to_device(next(batches), device, 0)
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.trainer.precision == "bf16-mixed"):
                total = (
                    supervised_loss(model, batch, module.loss_kernel).total if same_loss else _plain_loss(model, batch)
                )
                loss = total / batch["loss_tokens"][0]
            loss.backward()
            step_loss += loss.detach()
            TURNS.saw(batch, step_loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.trainer.gradient_clip_val)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    TURNS.end()
    return model


def run_bare_same_loss(cfg: DictConfig, settings: Settings) -> nn.Module:
    """`run_bare` with our model and loss."""
    return run_bare(cfg, settings, same_loss=True)


def run_hugging_face(cfg: DictConfig, settings: Settings) -> nn.Module:
    """Hugging Face's ``Trainer``, with peft where there is an adapter, at its defaults but for what is compared."""
    datamodule, module = _data_and_module(cfg)
    with torch.device(settings.device):
        model: Any = _plain_model(cfg, module)
    if cfg.get("adapter"):
        from peft import LoraConfig, get_peft_model

        lora = {"r": cfg.adapter.r, "lora_alpha": cfg.adapter.alpha, "lora_dropout": cfg.adapter.dropout}
        targets = list(cfg.adapter.target_modules)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **lora))
    optimizer, bf16 = module.optimizer_settings, cfg.trainer.precision == "bf16-mixed"
    arguments = TrainingArguments(
        output_dir=settings.output_dir,
        max_steps=cfg.trainer.max_steps,
        per_device_train_batch_size=settings.hf_batch_size,
        gradient_accumulation_steps=settings.hf_accumulation,
        learning_rate=optimizer.lr,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=cfg.trainer.gradient_clip_val,
        lr_scheduler_type="constant",
        bf16=bf16,
        use_cpu=settings.device == "cpu",
        save_strategy="no",
        disable_tqdm=True,
        seed=cfg.seed,
        **settings.hf_arguments,
    )
    (segments,) = datamodule.sources.train.values()
    dataset = Examples(segments, with_labels=settings.hf_collator != "language_modeling")
    collator = _collator(settings.hf_collator, datamodule)
    CountingTrainer(model, arguments, collator, dataset, callbacks=[HuggingFaceTurns()]).train()
    return model


LOOPS: dict[str, Callable[[DictConfig, Settings], nn.Module]] = {
    "ours": run_ours,
    "bare": run_bare,
    "bare_same_loss": run_bare_same_loss,
    "hf": run_hugging_face,
}


class CountingTrainer(Trainer):
    """A ``Trainer`` whose batches are counted."""

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        TURNS.saw(inputs)
        return super().training_step(model, inputs, *args, **kwargs)


class Examples(Dataset[dict[str, list[int]]]):
    """Segments one by one, as a Hugging Face ``Trainer`` wants them."""

    def __init__(self, segments: Segments, with_labels: bool) -> None:
        self.segments, self.with_labels, self.length = segments, with_labels, len(segments.lengths)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        example = {"input_ids": self.segments.tokens(index).tolist()}
        if self.with_labels:
            example["labels"] = self.segments.labels(index).tolist()
        return example


def held_out_loss(model: nn.Module, segments: Segments, device: str, bf16: bool) -> float:
    """Nats per supervised token, every segment alone in its batch: no packing, no padding, no loss of ours."""
    model.to(device).eval()
    nats, tokens = 0.0, 0
    for index in range(min(HELD_OUT_SEGMENTS, len(segments.lengths))):
        ids, labels = (torch.tensor(f(index).tolist(), device=device) for f in (segments.tokens, segments.labels))
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum"))
        tokens += int((labels[1:] != -100).sum())
    return nats / tokens if tokens else math.nan


def _data_and_module(cfg: DictConfig) -> tuple[PackedDataModule, CausalLM]:
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    spec: ModelSpec = build(cfg.model)
    datamodule: PackedDataModule = build(cfg.data, model=spec)
    datamodule.setup()
    return datamodule, build(cfg.module, model=spec)


def _plain_model(cfg: DictConfig, module: CausalLM) -> nn.Module:
    model = load_model(module.spec, dtype="float32", from_scratch=cfg.module.from_scratch)
    model.config.use_cache = False
    return model


def _plain_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    logits, targets = logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten()
    return F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")


def _collator(name: str, datamodule: Any) -> Any:
    if name == "stack":
        return None
    tokenizer = load_tokenizer(datamodule.model)
    if name == "seq2seq":
        return DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8)
    return DataCollatorForLanguageModeling(tokenizer, mlm=False, pad_to_multiple_of=8)


def main() -> None:
    warnings.filterwarnings("ignore")
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    TURNS.open(int(sys.argv[2]), settings.steps_per_turn, settings.device)
    TURNS.wait()
    cfg = composed(settings)
    end: dict[str, Any] = {"event": "end"}
    try:
        model = LOOPS[settings.loop](cfg, settings)
    except torch.OutOfMemoryError:
        TURNS.send(end | {"error": "out of memory"})
        return
    end |= {
        "memory_gb": peak_memory_gb(TURNS.device),
        "peak_flops": peak_flops(TURNS.device, str(cfg.trainer.precision)),
    }
    TURNS.wait()
    if settings.evaluate:
        held_out = next(iter(build(cfg.data, model=build(cfg.model)).sources.validation.values()))
        end["held_out"] = held_out_loss(model, held_out, settings.device, cfg.trainer.precision == "bf16-mixed")
    TURNS.send(end)


if __name__ == "__main__":
    main()
