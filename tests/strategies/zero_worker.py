"""Training runs of a plan, one after another in the same processes: starting processes takes longer than the runs.

``torchrun --nproc-per-node 2 zero_worker.py PLAN`` carries out a JSON list of runs: a name, overrides of
``configs/train.yaml`` and callbacks. Each leaves its run folder beside the plan, and what `losses` reads from it.
"""

import csv
import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from src.command import CONFIGS, ROOT
from src.strategies.deepspeed import ZeroStrategy, partition_while_loading


def start(plan: Path, processes: int, timeout_s: float = 600) -> None:
    """Carry out a plan with torchrun; what the processes said is in the error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "DS_ACCELERATOR": "cpu"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "524288"  # freed tensors leave the process at once: see measured_memory
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*command, __file__, str(plan)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout_s,
        check=False,
    )
    plan.with_suffix(".log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def composed(run: dict[str, Any], folder: Path) -> DictConfig:
    """The config of one run of a plan; its folder is ``folder/NAME``."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=["logger=csv", *run["overrides"]])
    with open_dict(cfg):
        cfg.paths.output_dir = str(folder / run["name"])
        for name in cfg.callbacks:
            if name not in run.get("callbacks", {}):
                cfg.callbacks[name] = None
        cfg.callbacks = OmegaConf.merge(cfg.callbacks, run.get("callbacks", {}))
    Path(cfg.paths.output_dir).mkdir(exist_ok=True)
    OmegaConf.resolve(cfg)
    return cfg


def carry_out(plan: Path) -> None:
    """Every run of a plan, in this process."""
    from src.training import train

    for run in json.loads(plan.read_text()):
        began = time.perf_counter()
        folder = plan.parent / run["name"]
        found = {} if "load" not in run else loaded(run["load"])
        if "overrides" in run:
            train(composed(run, plan.parent))
        folder.mkdir(exist_ok=True)
        gc.collect()  # transformers looks for a live ZeRO-3 configuration
        found["seconds"] = time.perf_counter() - began
        (folder / f"rank_{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))


def loaded(model: str) -> dict[str, float]:
    """Memory that loading a model partitioned takes at its peak, over what the process had before."""
    from src.models.load import load_model
    from src.models.spec import ModelSpec

    with partition_while_loading(ZeroStrategy(stage=3)), measured_memory() as peak:
        parts = [p.ds_tensor for p in load_model(ModelSpec(path=model)).parameters()]
    return {"peak_bytes": peak(), "own_bytes": sum(part.numel() * part.element_size() for part in parts)}


def losses(run_folder: Path) -> list[float]:
    """Loss of each optimizer step of a run: the mean over its micro-batches and processes."""
    ranks = [json.loads(path.read_text()) for path in sorted(run_folder.glob("losses_*.json"))]
    accumulation = ranks[0]["accumulation"]
    micro = [sum(values) / len(ranks) for values in zip(*(rank["losses"] for rank in ranks), strict=True)]
    return [sum(micro[start : start + accumulation]) for start in range(0, len(micro), accumulation)]


def values(run_folder: Path, column: str) -> list[float]:
    """What a run logged at each optimizer step."""
    with (run_folder / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


class measured_memory:
    """Peak of anonymous memory over what the process had before; mapped files don't count.

    glibc keeps freed blocks in its heap for the next ones, in pieces that may not fit them; with the threshold that
    `start` sets, memory is what tensors take.
    """

    def __enter__(self) -> Any:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # or memory freed before is used again unseen
        self._before = self._peak = anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return lambda: self._peak - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


class Losses(Callback):
    """Writes down the loss of every micro-batch, which Lightning has divided by the accumulation, on each process."""

    def __init__(self, folder: str) -> None:
        self.folder, self.losses = Path(folder), list[float]()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *rest: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = {"accumulation": trainer.accumulate_grad_batches, "losses": self.losses}
        (self.folder / f"losses_{trainer.global_rank}.json").write_text(json.dumps(found))


class Weights(Callback):
    """Saves the whole weights that are in memory at the end of training."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parameters = dict(pl_module.model.named_parameters())
        if isinstance(trainer.strategy, ZeroStrategy) and trainer.strategy.zero_stage_3:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(parameters.values())):
                whole = {name: p.detach().clone() for name, p in parameters.items()}
        else:
            whole = {name: p.detach().clone() for name, p in parameters.items()}
        if trainer.is_global_zero:
            torch.save(whole, self.path)


class Discard(Callback):
    """Leaves out the optimizer's part of one step: weights and moments stay, the schedule goes on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step != self.step:
            return
        if isinstance(trainer.strategy, ZeroStrategy):
            trainer.strategy.discard_gradients = True
        else:
            optimizer.zero_grad(set_to_none=True)  # AdamW passes over parameters without a gradient


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    carry_out(Path(sys.argv[1]))
