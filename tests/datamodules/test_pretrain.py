"""Pretraining data over real shards: the order survives any change of processes, and a mix that ends ends cleanly."""

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from src.datamodules.pretrain import PretrainDataModule
from src.errors import UserError
from src.models.download import resolve
from src.models.spec import ModelSpec
from src.models.tokenizer import open_encoder
from src.shards.format import ShardWriter
from src.shards.manifest import Counts, Manifest

SEGMENTS = {"zh": 300, "en": 120, "code": 50}
GLOBAL_BATCH = 12
Make = Callable[..., PretrainDataModule]


@pytest.fixture(scope="module")
def shards(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of 9 to 16 tokens, so that each is a row of 16; a segment's first token is its number."""
    encoder = open_encoder(smollm2_dir)
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for base, (name, count) in enumerate(SEGMENTS.items()):
        (folder / name).mkdir()
        tokens = 0
        with ShardWriter(folder / name / "train-00000", np.uint16) as writer:
            for number in range(count):
                segment = rng.integers(2000, 40000, rng.integers(9, 17))
                segment[0] = 500 * base + number
                tokens += len(segment)
                writer.add_document([segment])
        with ShardWriter(folder / name / "validation-00000", np.uint16):
            pass
        splits = {"train": Counts(count, count, tokens, tokens), "validation": Counts()}
        Manifest(name, encoder.name, encoder.fingerprint, encoder.vocab_size, 16, "uint16", splits=splits).save(
            folder / name
        )
    return folder


@pytest.fixture
def make(smollm2: ModelSpec, shards: Path) -> Make:
    resolve(smollm2)

    def made(**settings: Any) -> PretrainDataModule:
        standard = {"sources": {"zh": 5.5, "en": 1.5, "code": 0.9}, "max_length": 16, "micro_batch_size": 2, "seed": 3}
        standard |= {"model": smollm2, "shards_dir": str(shards), "global_batch_size": GLOBAL_BATCH}
        return PretrainDataModule(**{**standard, **settings})

    return made


def run(data: PretrainDataModule, world_size: int, steps: int | None = None) -> list[list[int]]:
    """The first tokens of the rows of each global batch, in the order of the samples, as so many ranks read them."""
    micro_steps = GLOBAL_BATCH // (data.micro_batch_size * world_size)
    limit = None if steps is None else steps * micro_steps
    ranks = [
        [first_tokens(batch) for batch in islice(data.train_loader(rank, world_size), limit)]
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    samples = [token for step in zip(*ranks, strict=True) for row in zip(*step, strict=True) for token in row]
    return [samples[start : start + GLOBAL_BATCH] for start in range(0, len(samples), GLOBAL_BATCH)]


def first_tokens(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["input_ids"][:, 0].tolist()


def resumed(data: PretrainDataModule, other: PretrainDataModule, steps: int) -> PretrainDataModule:
    other.load_state_dict({"consumed_samples": steps * GLOBAL_BATCH, "order": data.fingerprint()})
    return other


@pytest.mark.parametrize(("when", "num_workers"), [("repeat", 2), ("reweight", 0)])
def test_one_then_three_then_two_processes_read_what_one_process_reads(make: Make, num_workers: int, when: str) -> None:
    settings = {"when_exhausted": when, "num_workers": num_workers}
    alone = make(when_exhausted=when)
    whole = run(alone, world_size=1, steps=30)
    parts = run(alone, world_size=1, steps=9)
    parts += run(resumed(alone, make(**settings), 9), world_size=3, steps=11)
    parts += run(resumed(alone, make(**settings, micro_batch_size=3), 20), world_size=2, steps=10)
    assert parts == whole


def test_every_segment_is_read_exactly_once_where_no_source_repeats(make: Make) -> None:
    data = make(when_exhausted="reweight", global_batch_size=10)
    tokens = [token for batch in data.train_loader(0, 1) for token in first_tokens(batch)]
    assert sorted(tokens) == sorted(
        500 * base + n for base, count in enumerate(SEGMENTS.values()) for n in range(count)
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_all_processes_end_with_the_same_whole_global_batch(make: Make, world_size: int) -> None:
    batches = run(make(when_exhausted="reweight"), world_size)
    assert len(batches) == sum(SEGMENTS.values()) // GLOBAL_BATCH
    assert {len(batch) for batch in batches} == {GLOBAL_BATCH}


def test_every_global_batch_holds_the_counts_that_knowlm_is_given(make: Make) -> None:
    data = make(global_batch_distributed={"zh": 8, "en": 3, "code": 1, "wiki": 0})
    for batch in run(data, world_size=3, steps=20):
        assert np.bincount(np.array(batch) // 500, minlength=3).tolist() == [8, 3, 1]
    with pytest.raises(UserError, match=r"8 zh \+ 3 en = 11 rows"):
        make(global_batch_distributed={"zh": 8, "en": 3})


def test_epochs_say_how_long_a_run_is(make: Make) -> None:
    data = make(sources={"zh": {"epochs": 1}, "code": {"epochs": 3}})
    assert data.total_samples == data.samples_per_epoch == 450 // GLOBAL_BATCH * GLOBAL_BATCH
    read = np.array([token for batch in run(data, world_size=2) for token in batch])
    assert abs((read >= 1000).sum() - 150 * data.total_samples / 450) < 1
    for_ever = make()
    assert for_ever.total_samples is None and for_ever.samples_per_epoch == 470


def test_another_mix_can_not_be_resumed(make: Make) -> None:
    data = make()
    for change in (
        {"sources": {"zh": 5, "en": 1.5, "code": 0.9}},
        {"when_exhausted": "stop"},
        {"sources": {"en": 1.5, "zh": 5.5, "code": 0.9}},
        {"seed": 4},
    ):
        with pytest.raises(UserError, match="some samples would repeat"):
            resumed(data, make(**change), 3)


class Line(L.LightningModule):
    """One weight that reads the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen += first_tokens(batch)
        return self.weight * batch["input_ids"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-9)


@pytest.mark.parametrize("max_steps", [10**6, -1])
def test_training_ends_with_the_mix(
    make: Make, max_steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, module = make(when_exhausted="stop", micro_batch_size=6), Line()
    trainer = L.Trainer(
        max_steps=max_steps, max_epochs=-1, accumulate_grad_batches=2, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        limit_val_batches=0,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "src.datamodules.packed"):
        trainer.fit(module, data)
    steps = (data.total_samples or 0) // GLOBAL_BATCH
    assert trainer.global_step == trainer.max_steps == steps > 30
    assert len(module.seen) == len(set(module.seen)) == data.total_samples
    assert (f"the mix has {steps} global batches" in caplog.text) == (max_steps > 0)
    assert data.state_dict()["consumed_samples"] == data.total_samples
