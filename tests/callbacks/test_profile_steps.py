"""A profile holds the steps that were asked for, and the run goes on without the profiler."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from src.models.spec import ModelSpec
from src.training import train

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny_run(compose_train: Callable[[Sequence[str]], DictConfig], llama_tiny: ModelSpec, tmp_path: Path):  # type: ignore[no-untyped-def]
    data = tmp_path / "sums.jsonl"
    rows = [{"instruction": f"Double {n}.", "input": "", "output": f"{2 * n}"} for n in range(100)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def composed(*more: str) -> DictConfig:
        return compose_train(
            [
                "experiment=sft_demo",
                "model=llama_tiny",
                f"data.train={data}",
                "data.max_length=64",
                "data.micro_batch_size=1",
                "data.global_batch_size=2",
                "data.validation_rows=1",
                "trainer.precision=32-true",
                "trainer.max_steps=6",
                "trainer.val_every_n_steps=6",
                "validate_before=false",
                "save_last=false",
                "callbacks.samples=null",
                "callbacks.export=null",
                "callbacks.best=null",
                *more,
            ]
        )

    return composed


def test_a_profile_holds_the_steps_asked_for_and_then_ends(  # type: ignore[no-untyped-def]
    tiny_run, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny_run("profiler=torch", "profiler.skip=1", "profiler.warmup=1", "profiler.steps=2")
    with caplog.at_level("INFO", "src.callbacks.profile_steps"):
        metrics = train(cfg)
    assert metrics["consumed/samples"] == 12 and not torch.autograd._profiler_enabled()
    folder = Path(cfg.paths.output_dir, "profile")
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert {name for name in names if name.startswith("ProfilerStep#")} == {"ProfilerStep#2", "ProfilerStep#3"}
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step#")]
    assert len(steps) == 2 and "aten::mm" in names
    operators = (folder / "operators.txt").read_text()
    assert operators.count("aten::mm ") >= 2 and "2 optimizer steps, by time" in operators and "by memory" in operators
    assert "ui.perfetto.dev" in caplog.text and str(folder / "trace.json.gz") in caplog.text


def test_a_run_too_short_for_a_profile_says_so(tiny_run, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    cfg = tiny_run("profiler=torch", "trainer.max_steps=2", "trainer.val_every_n_steps=2")
    train(cfg)
    assert "no profile: it takes 17 steps and 2 are left" in caplog.text
    assert not Path(cfg.paths.output_dir, "profile").exists()


@pytest.mark.parametrize(("profiler", "word"), [("simple", "run_training_batch"), ("advanced", "cumtime")])
def test_profilers_of_lightning_write_into_the_run_folder(tiny_run, profiler: str, word: str) -> None:  # type: ignore[no-untyped-def]
    cfg = tiny_run(f"profiler={profiler}", "trainer.max_steps=1", "trainer.val_every_n_steps=1")
    train(cfg)
    assert word in Path(cfg.paths.output_dir, "profile", f"fit-{profiler}.txt").read_text()
