"""Pretraining data over real shards: the order survives any change of processes, and a mix that ends ends cleanly."""

import logging
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from src.datamodules.pretrain import PretrainDataModule, PretrainSegments
from src.errors import UserError
from src.models.download import resolve
from src.models.spec import ModelSpec
from src.models.tokenizer import open_encoder
from src.shards.format import ShardWriter
from src.shards.manifest import Counts, Manifest
from src.shards.source import Source

SEGMENTS = {"zh": 300, "en": 120, "code": 50}
WEIGHTS = {"zh": 5.5, "en": 1.5, "code": 0.9}
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
        splits = {"train": Counts(count, count, tokens, tokens)}
        facts = (name, encoder.name, encoder.fingerprint, encoder.vocab_size, 16, "uint16", WEIGHTS[name])
        Manifest(*facts, splits=splits).save(folder / name)
    return folder


@pytest.fixture
def make(smollm2: ModelSpec, shards: Path) -> Make:
    resolve(smollm2)

    def made(**settings: Any) -> PretrainDataModule:
        standard = {"sources": WEIGHTS, "max_length": 16, "micro_batch_size": 2, "seed": 3}
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
    samples = [token for step in zip(*ranks, strict=True) for micro_batch in step for token in micro_batch]
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


def test_a_mix_that_names_no_source_takes_all_that_are_finished_by_their_manifests_weights(
    make: Make, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in SEGMENTS:
        (tmp_path / name).symlink_to(shards / name)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / ".zh.old").symlink_to(shards / "zh")
    (tmp_path / "report.json").touch()
    with caplog.at_level(logging.INFO, "src.datamodules.pretrain"):
        data = make(sources=None, shards_dir=str(tmp_path))
        assert run(data, world_size=1, steps=5) == run(make(sources=dict(sorted(WEIGHTS.items()))), 1, 5)
    assert data.sources.mix == {"code": 0.9, "en": 1.5, "zh": 5.5}
    assert "by the weights in their manifests: code 0.9, en 1.5, zh 5.5" in caplog.text


def test_a_mix_that_names_no_source_needs_finished_ones(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no token shards in .*: make them with python scripts/preprocess\.py"):
        make(sources=None, shards_dir=str(tmp_path / "nothing")).setup()
    with pytest.raises(UserError, match="names no source"):
        make(sources={"zh": None})


def test_rows_per_batch_take_the_place_of_sources_that_are_not_named(make: Make) -> None:
    data = make(sources=None, global_batch_distributed={"zh": 8, "en": 4})
    assert list(data.sources.mix) == ["zh", "en"]


def test_a_source_is_validated_on_what_its_manifest_counts(make: Make, shards: Path, tmp_path: Path) -> None:
    for name in ("zh", "code"):
        (tmp_path / name).symlink_to(shards / name)
    (tmp_path / "en").mkdir()
    for file in (shards / "en").iterdir():
        (tmp_path / "en" / file.name).symlink_to(file)
        if file.suffix in (".bin", ".idx"):
            (tmp_path / "en" / f"validation-00000{file.suffix}").symlink_to(file)
    manifest = Manifest.load(shards / "en")
    manifest.splits["validation"] = manifest.splits["train"]
    (tmp_path / "en" / "manifest.json").unlink()
    manifest.save(tmp_path / "en")
    data = make(shards_dir=str(tmp_path))
    assert data.validation_names == ["en"] and len(data.val_dataloader()) == 1


def test_a_loader_process_gets_no_lengths_and_counts_the_same(shards: Path, tmp_path: Path) -> None:
    for number, name in enumerate(["zh", "en"]):
        for suffix in (".bin", ".idx"):
            (tmp_path / f"train-{number:05}{suffix}").symlink_to(shards / name / f"train-00000{suffix}")
    Manifest("both", "", "", 49152, 16, "uint16").save(tmp_path)
    segments = PretrainSegments(Source.open(tmp_path))
    indices = np.array([299, 0, 300, 419, 7])
    wanted = int(segments.lengths[indices].sum()) - len(indices)
    sent = pickle.dumps(segments)
    there = pickle.loads(sent)
    assert there.loss_tokens(indices) == segments.loss_tokens(indices) == wanted
    assert len(sent) < 1000 and "lengths" not in vars(there.source)


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


class Validated(Line):
    """One that would be validated if anything were held out."""

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", self.weight)


def test_training_runs_where_no_source_holds_anything_out(make: Make, tmp_path: Path) -> None:
    data, module = make(), Validated()
    trainer = L.Trainer(
        max_steps=4, max_epochs=-1, accumulate_grad_batches=6, val_check_interval=12, check_val_every_n_epoch=None,
        num_sanity_val_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=L.pytorch.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss"),
    )  # fmt: skip
    trainer.fit(module, data)
    assert data.validation_names == [] and trainer.global_step == 4
    assert len(module.seen) == 4 * GLOBAL_BATCH


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
