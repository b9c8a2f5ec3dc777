"""What a run logs, when it reads it, and that the numbers are right."""

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils._python_dispatch import TorchDispatchMode

from src.callbacks.loggers import WandbAxisLogger
from src.callbacks.metrics import Metrics, is_logged
from src.command import CONFIGS
from src.models.spec import ModelSpec
from src.modules.causal_lm import CausalLM
from src.training import train

pytestmark = pytest.mark.slow  # one run of a few seconds for most of them

STEPS, EVERY, BATCH = 7, 3, 4


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"instruction": f"Double {n}.", "input": "", "output": f"{2 * n}"} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_run(instructions: Path, folder: Path, *more: str) -> DictConfig:
    overrides = [
        "experiment=sft_demo",
        "model=llama_tiny",
        f"data.train={instructions}",
        "logger=csv",
        "data.max_length=64",
        "data.micro_batch_size=1",
        f"data.global_batch_size={BATCH}",
        "data.validation_rows=1",
        "trainer.precision=32-true",
        f"trainer.max_steps={STEPS}",
        "trainer.val_every_n_steps=5",
        f"trainer.log_every_n_steps={EVERY}",
        "validate_before=false",
        "save_last=false",
        "callbacks.samples=null",
        "callbacks.export=null",
        "callbacks.best=null",
        *more,
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    with open_dict(cfg):
        cfg.paths.output_dir = str(folder)
    folder.mkdir(exist_ok=True)
    OmegaConf.resolve(cfg)
    return cfg


class Reads(TorchDispatchMode):
    """Counts operations whose result the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


class Run:
    """A tiny run, and what was seen while it ran."""

    def __init__(self, instructions: Path, folder: Path) -> None:
        self.losses: list[tuple[float, int]] = []  # nats and tokens of each micro-batch
        self.tokens: list[int] = []
        self.reads: dict[str, int] = {}
        self.sums_over_ranks = 0
        self.lines: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            self._watch(patch)
            self.metrics = train(tiny_run(instructions, folder))
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.rows = [{name: float(value) for name, value in row.items() if value} for row in rows]
        self.training = [row for row in self.rows if "train/loss" in row]

    def _watch(self, patch: pytest.MonkeyPatch) -> None:
        step, end, add = CausalLM.training_step, Metrics.on_train_batch_end, CausalLM.log
        reduce, emit = SingleDeviceStrategy.reduce, logging.Logger.handle

        def training_step(module: CausalLM, batch: Any, batch_idx: int) -> torch.Tensor:
            before = module.loss_sums.sums.clone()
            with Reads() as reads:
                loss = step(module, batch, batch_idx)
            self._note("training_step", reads)
            nats, tokens, _ = (module.loss_sums.sums - before).sum(0).tolist()
            self.losses.append((nats, int(tokens)))
            self.tokens.append(int(batch["counts"][:, 0].sum()))
            return loss

        def on_train_batch_end(
            metrics: Metrics, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            with Reads() as reads:
                end(metrics, trainer, module, outputs, batch, batch_idx)
            self._note("logged" if is_logged(trainer, batch_idx) else "not logged", reads)

        def log(module: CausalLM, name: str, value: Any, **settings: Any) -> None:
            with Reads() as reads:
                add(module, name, value, **settings)
            if name.startswith("train/"):
                self._note("log", reads)

        def counted_reduce(strategy: Any, tensor: Any, *args: Any, **settings: Any) -> Any:
            if torch.is_tensor(tensor) and tensor.numel() > 3 and torch.is_inference_mode_enabled() is False:
                self.sums_over_ranks += 1
            return reduce(strategy, tensor, *args, **settings)

        def handle(logger: logging.Logger, record: logging.LogRecord) -> None:
            if record.name == "src.callbacks.progress":
                self.lines.append(record.getMessage())
            emit(logger, record)

        patch.setattr(CausalLM, "training_step", training_step)
        patch.setattr(CausalLM, "log", log)
        patch.setattr(Metrics, "on_train_batch_end", on_train_batch_end)
        patch.setattr(SingleDeviceStrategy, "reduce", counted_reduce)
        patch.setattr(logging.Logger, "handle", handle)
        patch.setattr(logging.getLogger("src.callbacks.progress"), "level", logging.INFO)

    def _note(self, where: str, reads: Reads) -> None:
        self.reads[where] = self.reads.get(where, 0) + reads.count


@pytest.fixture(scope="module")
def run(llama_tiny: ModelSpec, instructions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield Run(instructions, tmp_path_factory.mktemp("metrics") / "run")


def test_a_row_is_logged_for_the_first_every_third_and_the_last_step(run: Run) -> None:
    assert [row["step"] for row in run.training] == [1, 3, 6, 7]
    assert [row["step"] for row in run.rows if "val/loss" in row] == [5, 7]


def test_what_a_run_shows_is_there(run: Run) -> None:
    wanted = {
        *("train/loss", "train/bits_per_byte", "train/lr", "train/grad_norm", "train/answers/loss"),
        *("throughput/tokens_per_s", "throughput/tokens_per_s_per_device", "throughput/mfu", "throughput/step_time_s"),
        *("throughput/data_wait_s", "throughput/data_wait_share", "throughput/eta_s"),
        *("consumed/tokens", "consumed/samples", "consumed/answers/epochs", "consumed/answers/share"),
        *("memory/host_gb", "memory/host_peak_gb"),
    }
    for row in run.training:
        assert wanted <= row.keys()
    assert wanted <= run.metrics.keys()


def test_a_logged_loss_is_the_mean_over_the_tokens_since_the_last_one(run: Run) -> None:
    assert len(run.losses) == STEPS * BATCH
    previous = 0
    for row in run.training:
        step = int(row["step"])
        nats, tokens = (sum(column) for column in zip(*run.losses[previous * BATCH : step * BATCH], strict=True))
        assert row["train/loss"] == pytest.approx(nats / tokens, abs=1e-9)
        assert row["train/answers/loss"] == row["train/loss"]
        previous = step


def test_consumed_tokens_are_those_of_the_batches(run: Run) -> None:
    for row in run.training:
        step = int(row["step"])
        assert row["consumed/tokens"] == sum(run.tokens[: step * BATCH])
        assert row["consumed/samples"] == step * BATCH
        assert row["consumed/answers/share"] == 1


def test_rates_are_plausible(run: Run) -> None:
    last = run.training[-1]
    assert 0 < last["throughput/mfu"] < 1
    assert 0 < last["throughput/data_wait_share"] < 0.5
    assert last["throughput/data_wait_s"] < last["throughput/step_time_s"]
    assert last["throughput/eta_s"] == 0 < run.training[0]["throughput/eta_s"]
    assert 0.05 < last["memory/host_gb"] <= last["memory/host_peak_gb"] < 64


def test_nothing_is_read_between_logged_steps(run: Run) -> None:
    assert run.reads["training_step"] == run.reads["not logged"] == run.reads["log"] == 0
    assert run.sums_over_ranks == len(run.training)


def test_a_line_shows_the_numbers(run: Run) -> None:
    first = next(line for line in run.lines if line.startswith(f"step 1/{STEPS}"))
    for name in ("loss ", "bpb ", "lr ", "grad_norm ", "tok/s ", "mfu ", "step_s ", "data_wait ", "host_gb ", "eta "):
        assert f"  {name}" in first


def test_a_tracker_draws_losses_over_the_consumed_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = WandbAxisLogger(x_axis="consumed/tokens", save_dir=str(tmp_path), offline=True)
    defined: list[tuple[str, str]] = []
    experiment = logger.experiment
    define = experiment.define_metric

    def define_metric(name: str, step_metric: str, **settings: Any) -> Any:
        defined.append((name, step_metric))
        return define(name, step_metric=step_metric, **settings)

    monkeypatch.setattr(experiment, "define_metric", define_metric)
    for step in (1, 2):
        logger.log_metrics({"train/loss": 2.0, "memory/host_gb": 1.0, "consumed/tokens": 100.0 * step}, step)
    logger.log_metrics({"val/loss": 2.0, "consumed/tokens": 200.0}, 2)
    experiment.finish()
    assert defined == [("train/loss", "consumed/tokens"), ("val/loss", "consumed/tokens")]


def test_counters_go_on_after_a_resume(llama_tiny: ModelSpec, instructions: Path, tmp_path: Path, run: Run) -> None:
    first = tiny_run(instructions, tmp_path / "first", "trainer.max_steps=4", "save_last=true")
    train(first)
    again = tiny_run(instructions, tmp_path / "again", f"ckpt_path='{tmp_path / 'first/checkpoints/last.ckpt'}'")
    resumed = train(again)
    for name in ("consumed/tokens", "consumed/samples", "consumed/answers/epochs"):
        assert resumed[name] == run.metrics[name]
