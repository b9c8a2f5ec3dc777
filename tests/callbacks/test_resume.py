"""A run that goes on keeps its folder, its logs up to the checkpoint and its entry in the tracker."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import wandb
from omegaconf import DictConfig, open_dict

from src.callbacks.checkpoint_files import newest, read_manifest
from src.callbacks.loggers import CsvLogger
from src.callbacks.preemption import Preempted
from src.callbacks.resume import continue_history, set_aside
from src.errors import UserError
from src.models.spec import ModelSpec
from src.training import train
from tests.callbacks.test_preemption import SignalAt

Compose = Callable[[Sequence[str]], DictConfig]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder: Path) -> None:
    """Logs of a run that was killed at step 5, two steps after a checkpoint."""
    folder.mkdir(exist_ok=True)
    lines = ["step,train/loss,val/loss", *(f"{step},{10 - step}," for step in range(1, 4)), "3,,6.5", "4,6,", "5,"]
    (folder / "metrics.csv").write_text("\n".join(lines), encoding="utf-8")
    samples = [json.dumps({"step": step, "text": "…"}) for step in (1, 3, 5)]
    (folder / "samples.jsonl").write_text("\n".join(samples) + '\n{"step": 5, "te', encoding="utf-8")


@pytest.mark.parametrize("same_folder", [True, False])
def test_logs_go_on_from_the_rows_before_the_checkpoint_s_validation(same_folder: bool, tmp_path: Path) -> None:
    former = tmp_path / "former"
    folder = former if same_folder else tmp_path / "new"
    folder.mkdir()
    logged(former)
    if same_folder:
        set_aside(folder)
    logger = CsvLogger(str(folder), name="", version="")
    continue_history([logger], former, folder, step=3)
    logger.log_metrics({"train/loss": 5.0, "new": 1.0}, step=4)
    logger.save()
    assert [(row["step"], row["train/loss"], row["val/loss"], row["new"]) for row in rows_of(folder)] == [
        ("1", "9", "", ""),
        ("2", "8", "", ""),
        ("3", "7", "", ""),
        ("4", "5.0", "", "1.0"),
    ]
    assert [json.loads(line)["step"] for line in (folder / "samples.jsonl").read_text().splitlines()] == [1]
    assert not list(folder.glob(".*"))


def test_metrics_set_aside_by_a_start_that_was_killed_are_found_again(tmp_path: Path) -> None:
    logged(tmp_path)
    set_aside(tmp_path)
    set_aside(tmp_path)
    logger = CsvLogger(str(tmp_path), name="", version="")
    continue_history([logger], tmp_path, tmp_path, step=3)
    assert [row["step"] for row in rows_of(tmp_path)] == ["1", "2", "3"]


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_entry_in_the_tracker_and_finishes_what_a_kill_left(
    compose_train: Compose,
    instructions: Path,
    llama_tiny: ModelSpec,
) -> None:
    def run(*more: str, moment: str = "") -> Path:
        cfg = compose_train(
            [
                "experiment=sft_demo",
                "model=llama_tiny",
                f"data.train={instructions}",
                "data.max_length=64",
                "data.micro_batch_size=1",
                "data.global_batch_size=2",
                "trainer.precision=32-true",
                "trainer.max_steps=6",
                "trainer.val_every_n_steps=3",
                "trainer.limit_val_batches=1",
                "validate_before=false",
                "callbacks.samples=null",
                "logger=wandb",
                *more,
            ]
        )
        if moment:
            with open_dict(cfg):
                target = f"{SignalAt.__module__}.{SignalAt.__qualname__}"
                cfg.callbacks.signal = {"_target_": target, "moment": moment}
        train(cfg)
        return Path(cfg.paths.output_dir)

    with pytest.raises(Preempted) as stop:
        run(moment="between micro-batches")
    wandb.finish()  # the process would end here
    folder = run("ckpt_path=last")
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2
    entry = read_manifest(stop.value.checkpoint).wandb_id
    assert entry and {path.name.split("-")[-1] for path in (folder / "wandb").glob("offline-run-*")} == {entry}
    steps = [int(row["step"]) for row in rows_of(folder) if row["train/loss"]]
    assert steps == [1, 2, 3, 4, 5, 6]

    with pytest.raises(UserError, match=r"is finished at step 6: give trainer\.max_steps"):
        run("ckpt_path=last")

    exported = folder / "export" / "adapter_model.safetensors"
    before, said = exported.read_bytes(), json.loads((folder / "metrics.json").read_text())
    exported.unlink()
    (folder / "metrics.json").unlink()  # as if it had been killed after its last checkpoint
    run("ckpt_path=last", "logger=csv")
    assert exported.read_bytes() == before
    again = json.loads((folder / "metrics.json").read_text())
    assert again["train/loss"] == said["train/loss"] and again["val/loss"] == said["val/loss"]
    found = newest([folder / "checkpoints"]).found
    assert found is not None and read_manifest(found).step == 6
