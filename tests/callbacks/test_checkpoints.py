"""Checkpoints are complete or not there, damaged ones are passed over, and a full disk costs a run no more than one."""

import csv
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, open_dict

from src.callbacks import checkpoint_files as files
from src.callbacks.checkpoint_files import FileSum, Manifest
from src.callbacks.checkpoints import CheckpointFailed, Checkpoints, set_progress
from src.callbacks.resume import find_checkpoint, run_folder
from src.errors import UserError
from src.models.spec import ModelSpec
from src.strategies.checkpoint_io import StreamedCheckpointIO
from src.training import train

Compose = Callable[[Sequence[str]], DictConfig]


def written(folder: Path, step: int, time: float = 0.0, parts: Sequence[str] = ()) -> Path:
    """A complete checkpoint of random bytes: one file, or a folder of ``parts``."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"step_{step:08d}.ckpt"
    partial = files.partial_path(checkpoint)
    for part in parts or [""]:
        path = partial / part if part else partial
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{step}{part}").randbytes(5000))
    sums = {name: files.checksum(partial / name if name else partial) for name in files.files_of(partial)}
    manifest = Manifest(step, step * 4, 1, "SingleDeviceStrategy", "32-true", sums, time or float(step), "train.py")
    files.commit(partial, checkpoint, manifest)
    return checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is complete


def test_a_checkpoint_that_was_written_to_its_end_has_no_problem(tmp_path: Path) -> None:
    assert files.problem_with(written(tmp_path, 1)) is None
    assert files.problem_with(written(tmp_path, 2, parts=["a.pt", "checkpoint/b.pt"])) is None


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = files.read_manifest(written(tmp_path, 3, parts=["a.pt", "b.pt"]))
    assert (manifest.step, manifest.consumed_samples, manifest.bytes) == (3, 12, 10000)
    assert list(manifest.files) == ["a.pt", "b.pt"] and isinstance(manifest.files["a.pt"], FileSum)


def damage_nothing_but_the_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def damage_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1234] ^= 4
    path.write_bytes(content)


def damage_the_manifest(path: Path) -> None:
    files.manifest_path(path).write_text('{"step": 3', encoding="utf-8")


def take_the_manifest(path: Path) -> None:
    files.manifest_path(path).unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_nothing_but_the_end, "has 4999 bytes instead of 5000"),
        (damage_one_bit, "was changed since it was written"),
        (damage_the_manifest, "its manifest step_00000003.json can't be read"),
        (take_the_manifest, "it has no manifest step_00000003.json"),
        (Path.unlink, "no checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    harm: Callable[[Path], None], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    folder = runs / "first" / "checkpoints"
    before, damaged = written(folder, 2), written(folder, 3)
    harm(damaged)
    resume = find_checkpoint("last", runs, tmp_path / "new")
    assert resume is not None and resume.checkpoint == before
    with pytest.raises(UserError, match=words) as error:
        find_checkpoint(str(damaged), runs, tmp_path / "new")
    if damaged.exists():
        assert words in caplog.text and str(damaged) in caplog.text
        assert str(before) in str(error.value)


def test_a_folder_that_lacks_a_piece_is_passed_over(tmp_path: Path) -> None:
    before = written(tmp_path, 2, parts=["a.pt", "b.pt"])
    (written(tmp_path, 3, parts=["a.pt", "b.pt"]) / "b.pt").unlink()
    search = files.newest([tmp_path])
    assert search.found == before and "b.pt is missing" in search.skipped[0]


def test_sizes_alone_don_t_show_a_changed_bit(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 3)
    damage_one_bit(checkpoint)
    assert files.problem_with(checkpoint, checksums=False) is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4999), st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path: Path, position: int, change: int) -> None:
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    checkpoint = written(tmp_path / "c", 1)
    content = bytearray(checkpoint.read_bytes())
    content[position] ^= change
    checkpoint.write_bytes(content)
    assert files.problem_with(checkpoint) is not None


# Which is the newest


def test_last_is_the_newest_by_time_over_all_runs_of_a_name(tmp_path: Path) -> None:
    written(tmp_path / "old" / "checkpoints", 500, time=1.0)
    newer = written(tmp_path / "sweep" / "0" / "checkpoints", 20, time=2.0)
    resume = find_checkpoint("last", tmp_path, tmp_path / "new")
    assert resume is not None and resume.checkpoint == newer
    assert run_folder(str(tmp_path), "new", "last") == str(newer.parents[1])
    assert run_folder(str(tmp_path), "new", None) == str(tmp_path / "new")


def test_last_looks_into_the_run_s_own_folder_too(tmp_path: Path) -> None:
    checkpoint = written(tmp_path / "elsewhere" / "checkpoints", 1)
    resume = find_checkpoint("last", tmp_path / "runs", tmp_path / "elsewhere")
    assert resume is not None and resume.checkpoint == checkpoint


def test_auto_starts_anew_only_where_there_never_was_a_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint("auto", tmp_path, tmp_path / "new") is None
    take_the_manifest(written(tmp_path / "run" / "checkpoints", 1))
    with pytest.raises(UserError, match="finds no checkpoint that is complete"):
        find_checkpoint("auto", tmp_path, tmp_path / "new")
    with pytest.raises(UserError, match="finds no checkpoint"):
        find_checkpoint("last", tmp_path / "nowhere", tmp_path / "new")


def test_a_link_to_a_checkpoint_means_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 7)
    files.link(tmp_path / "last.ckpt", checkpoint)
    files.link(tmp_path / "last.ckpt", checkpoint)  # replaces the one before
    assert os.readlink(tmp_path / "last.ckpt") == "step_00000007.ckpt"
    resume = find_checkpoint(str(tmp_path / "last.ckpt"), tmp_path, tmp_path)
    assert resume is not None and resume.checkpoint == checkpoint and resume.manifest is not None


# What is kept


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 6)),
    st.data(),
)
def test_the_newest_and_every_nth_stay_and_what_this_step_replaces_goes(
    tmp_path: Path, steps: set[int], keep_last: int, every: int | None, data: st.DataObject
) -> None:
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    folder = tmp_path / "c"
    for step in steps:
        written(folder, step)
    current = data.draw(st.sampled_from(sorted(steps)))
    (folder / ".step_00000099.ckpt.partial").write_bytes(b"half")
    files.prune(folder, "step", current, keep_last, every)
    past = sorted(step for step in steps if step <= current)
    wanted = {*past[-keep_last:], *(step for step in past if every and step % every == 0)}
    assert {files.step_of(path) for path in folder.glob("step_*.ckpt")} == wanted
    assert len(names(folder)) == 2 * len(wanted)


# Reading and writing one file


def test_a_streamed_checkpoint_is_what_torch_save_writes(tmp_path: Path) -> None:
    content = {"state_dict": {"w": torch.randn(100, 100), "n": torch.arange(3)}, "global_step": 4, "text": "é"}
    StreamedCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    plain = torch.load(tmp_path / "a.ckpt", weights_only=True)
    mapped = StreamedCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    for one in (plain, mapped):
        assert one["text"] == "é" and one["global_step"] == 4
        assert all(torch.equal(one["state_dict"][key], value) for key, value in content["state_dict"].items())


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"PK" + bytes(5000))
    with pytest.raises(UserError, match=r"a\.ckpt can't be read as a checkpoint"):
        StreamedCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


# On a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB; skipped where this user can't mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_file_that_does_not_fit_is_an_oserror_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        StreamedCheckpointIO().save_checkpoint({"w": torch.zeros(1_000_000)}, small_disk / "a.ckpt")
    assert names(small_disk) == []


class FileLimit(L.Callback):
    """Lets no file grow beyond ``bytes`` in the steps from ``first`` to ``last``: a quota that any user can have."""

    def __init__(self, limit: int, first: int, last: int) -> None:
        self.limit, self.steps = limit, range(first, last + 1)
        self.unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        soft = self.limit if trainer.global_step + 1 in self.steps else self.unlimited[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, self.unlimited[1]))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.unlimited)

    def on_exception(self, *args: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.unlimited)


def limited_run(
    compose_train: Compose, instructions: Path, first: int, last: int, *more: str, limit: int = 100_000
) -> DictConfig:
    """A run of eight steps with a checkpoint after each, whose files may not grow beyond a limit in some steps."""
    cfg = compose_train(
        [
            "experiment=sft_demo",
            "model=llama_tiny",
            f"data.train={instructions}",
            "data.max_length=64",
            "data.micro_batch_size=1",
            "data.global_batch_size=1",
            "trainer.precision=32-true",
            "trainer.max_steps=8",
            "trainer.val_every_n_steps=8",
            "trainer.limit_val_batches=1",
            "validate_before=false",
            "callbacks.samples=null",
            "callbacks.export=null",
            "callbacks.loss_curve=null",
            "callbacks.best=null",
            "callbacks.last.every_n_steps=1",
            *more,
        ]
    )
    with open_dict(cfg):
        target = f"{FileLimit.__module__}.{FileLimit.__qualname__}"
        cfg.callbacks.limit = {"_target_": target, "limit": limit, "first": first, "last": last}
    return cfg


@pytest.mark.slow
def test_a_run_goes_on_after_saves_that_failed(
    compose_train: Compose, instructions: Path, llama_tiny: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = limited_run(compose_train, instructions, 4, 5)
    train(cfg)
    said = [record.message for record in caplog.records if "could not be written" in record.message]
    assert len(said) == 2 and "File too large" in said[0] and "failure 2 of 3" in said[1]
    assert "the last good one is" in said[1] and "step_00000003.ckpt" in said[1]
    folder = Path(cfg.paths.output_dir, "checkpoints")
    assert names(folder) == sorted(
        ["last.ckpt", *(f"step_0000000{step}.{end}" for step in (7, 8) for end in ("ckpt", "json"))]
    )


@pytest.mark.slow
def test_a_run_whose_metrics_can_t_be_written_goes_on_and_writes_them_later(
    compose_train: Compose, instructions: Path, llama_tiny: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = limited_run(compose_train, instructions, 3, 5, "callbacks.last=null", limit=500)
    train(cfg)
    said = [record.message for record in caplog.records if "could not be written" in record.message]
    assert said == ["what this step logged could not be written (File too large): training goes on"]
    with Path(cfg.paths.output_dir, "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]


@pytest.mark.slow
def test_failures_in_a_row_stop_the_run_and_leave_the_former_checkpoints(
    compose_train: Compose, instructions: Path, llama_tiny: ModelSpec
) -> None:
    cfg = limited_run(compose_train, instructions, 4, 8)
    with pytest.raises(CheckpointFailed, match=r"step 6 .*step_00000003\.ckpt.* failure 3 in a row"):
        train(cfg)
    folder = Path(cfg.paths.output_dir, "checkpoints")
    assert files.newest([folder]).found == folder / "step_00000003.ckpt"
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_last_checkpoint_that_can_t_be_written_is_an_error_after_everything_else(
    compose_train: Compose, instructions: Path, llama_tiny: ModelSpec
) -> None:
    cfg = limited_run(compose_train, instructions, 8, 9, "callbacks.last.every_n_steps=3")
    with pytest.raises(CheckpointFailed, match=r"step 8 .*the last good one is .*step_00000006\.ckpt"):
        train(cfg)


# Counters


@pytest.mark.parametrize("due", [True, False])
def test_saved_counters_are_those_of_a_step_whatever_the_accumulation_was(due: bool) -> None:
    fit_loop: dict[str, Any] = {"epoch_loop.state_dict": {"_batches_that_stepped": 99, "other": 1}}
    set_progress(fit_loop, step=6, accumulation=4, validation_due=due)
    assert fit_loop["epoch_loop.batch_progress"]["total"]["ready"] == 24
    assert fit_loop["epoch_loop.state_dict"]["other"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be null or a whole number"),
        ({"keep_last": 0}, "keep_last must be a whole number of at least 1"),
        ({"every_minutes": -1}, "every_minutes must be null or a positive number"),
    ],
)
def test_an_impossible_setting_is_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Checkpoints("nowhere", **settings)
