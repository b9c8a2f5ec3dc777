"""A training run: data, model, callbacks, loggers, trainer; validate, fit, validate. ``train.py`` is its command."""

import functools
import json
import logging
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from transformers.utils import logging as transformers_logging

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.metrics import Metrics
from src.callbacks.preemption import Preempted
from src.callbacks.resume import Resume, continue_history, find_checkpoint, keep_history, set_aside
from src.datamodules.packed import PackedDataModule
from src.errors import UserError
from src.modules.causal_lm import CausalLM
from src.strategies.checkpoint_io import StreamedCheckpointIO
from src.strategies.children import end_with_starter
from src.strategies.environments import cluster_environment
from src.strategies.hardware import Hardware, check_hardware, suitable_precision
from src.strategies.launch import meet, this_rank

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, float]:
    """Run the experiment that a config describes.

    Returns:
        the last value of every metric, with those of the untrained model under ``before/``; also written to
        ``metrics.json`` in the run folder.

    Raises:
        UserError: something asked for is impossible here.
        Preempted: the run was asked to stop and has saved a checkpoint.
    """
    hardware = check_hardware(cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.num_nodes, cfg.get("needs", ""))
    end_with_starter()
    meet(hardware.num_nodes, hardware.devices, cfg.rendezvous_timeout_s)
    output_dir, runs = Path(cfg.paths.output_dir), Path(cfg.paths.root_dir, "outputs", "train", cfg.run_name)
    resume = find_checkpoint(cfg.ckpt_path, runs, output_dir, cfg.verify_checksums)
    if hardware.accelerator == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before DeepSpeed is imported, which looks for GPUs
    hush()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")

    model = build(cfg.model)
    if model.context_length and cfg.data.max_length > model.context_length:
        raise UserError(
            f"data.max_length={cfg.data.max_length} is more than the context of {model.name}, "
            f"{model.context_length} tokens: give at most that"
        )
    datamodule: PackedDataModule = build(cfg.data, model=model)
    datamodule.setup()
    module: CausalLM = build(cfg.module, model=model)
    callbacks: list[L.Callback] = [build(callback) for callback in cfg.callbacks.values() if callback]
    if not any(isinstance(callback, Metrics) for callback in callbacks):
        callbacks.insert(0, Metrics())  # what is returned comes from it
    if not any(isinstance(callback, Checkpoints) for callback in callbacks):
        callbacks.append(Checkpoints(str(output_dir / "checkpoints"), every_n_steps=None, save_last=cfg.save_last))
    loggers = build_loggers(cfg, resume)
    trainer = build_trainer(cfg, hardware, datamodule, callbacks, loggers)
    for logger in loggers:
        logger.log_hyperparams({"config": OmegaConf.to_container(cfg, resolve=True)})
    if resume and trainer.is_global_zero:
        if resume.manifest:
            continue_history(loggers, resume.run_folder, output_dir, resume.manifest.step)
        else:
            keep_history(output_dir)

    before: dict[str, float] = {}
    if cfg.validate_before and resume is None:
        before = {f"before/{name}": value for name, value in validate(trainer, module, datamodule).items()}
    fit(trainer, module, datamodule, resume)
    metrics = {**before, **floats(trainer.callback_metrics)}
    finishes = "train/loss" not in metrics  # the checkpoint was of the last step: there was nothing to train
    if finishes:
        metrics |= finish(trainer, module, resume)
    if finishes or trainer.max_steps % val_every_n_steps(cfg.trainer, trainer.max_steps):  # it was not validated
        metrics |= validate(trainer, module, datamodule)
    if trainer.is_global_zero:
        path = output_dir / "metrics.json"
        path.write_text(json.dumps({"steps": trainer.global_step, **metrics}, indent=2) + "\n", encoding="utf-8")
        log.info("run folder: %s", output_dir)
    for logger in loggers:
        logger.finalize("success")
    if wandb.run is not None:
        wandb.finish()  # or the next run of a sweep would go on in this one
    return metrics


def fit(trainer: L.Trainer, module: CausalLM, datamodule: PackedDataModule, resume: Resume | None) -> None:
    """Train, from a checkpoint on if there is one."""
    try:
        checkpoint = str(resume.checkpoint) if resume else None
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    except Preempted as stop:
        if trainer.is_global_zero:
            log.warning("stopped at step %d; go on with the same command and ckpt_path=%s", stop.step, stop.checkpoint)
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes it exit status 1
            raise stop.__context__ from None
        raise


def finish(trainer: L.Trainer, module: CausalLM, resume: Resume | None) -> dict[str, float]:
    """Do for a run that was stopped after its last step what comes then; the metrics of that step.

    Raises:
        UserError: it had come to its end.
    """
    if resume is None or resume.manifest is None or resume.is_finished:
        raise UserError(
            f"the run in {resume.checkpoint if resume else trainer.default_root_dir} is finished at step "
            f"{trainer.global_step}: give trainer.max_steps=… to go on"
        )
    log.info("all %d steps were trained: finishing the run that was stopped after them", trainer.global_step)
    if isinstance(trainer.strategy, (DeepSpeedStrategy, ModelParallelStrategy)):
        log.warning("the weights are in pieces: export with python scripts/export.py checkpoint=%s", resume.checkpoint)
    else:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_train_end(trainer, module)
    return {name: value for name, value in resume.manifest.metrics.items() if not name.startswith("val/")}


def build_loggers(cfg: DictConfig, resume: Resume | None) -> list[Logger]:
    """The loggers; a run that goes on in its folder keeps its metrics and its entry in Weights & Biases."""
    goes_on = resume is not None and resume.run_folder == Path(cfg.paths.output_dir).resolve()
    if goes_on and this_rank() == 0:
        set_aside(Path(cfg.paths.output_dir))
    loggers = []
    for logger in cfg.logger.values():
        if logger:
            known = resume.manifest.wandb_id if goes_on and resume and resume.manifest else None
            same = {"id": known, "resume": "allow"} if known and logger["_target_"].endswith("wandb_logger") else {}
            loggers.append(build(logger, **same))
    return loggers


def build_trainer(
    cfg: DictConfig,
    hardware: Hardware,
    datamodule: PackedDataModule,
    callbacks: list[L.Callback],
    loggers: list[Logger],
) -> L.Trainer:
    """The trainer, with what follows from data and hardware: accumulation, steps, precision, validation interval."""
    settings = {key: value for key, value in cfg.trainer.items() if key not in {"max_epochs", "val_every_n_steps"}}
    accumulation = datamodule.micro_batches(hardware.world_size) // hardware.world_size
    if settings["precision"] == "auto":
        settings["precision"] = suitable_precision(hardware.accelerator)
    settings["max_steps"] = datamodule.limit_steps(total_steps(cfg.trainer, datamodule))
    settings |= {"accelerator": hardware.accelerator, "devices": hardware.devices, "num_nodes": hardware.num_nodes}
    settings["plugins"] = [*(settings.get("plugins") or []), cluster_environment()]
    if OmegaConf.is_config(settings["strategy"]):
        settings["strategy"] = build(settings["strategy"])
    if not isinstance(settings["strategy"], (DeepSpeedStrategy, ModelParallelStrategy)):  # they write folders
        settings["plugins"].append(StreamedCheckpointIO())
    if isinstance(settings["strategy"], ModelParallelStrategy) and str(settings["precision"]).startswith("16"):
        raise UserError(
            f"trainer=fsdp2 has no fp16 and this run would take it (trainer.precision={settings['precision']}): use "
            "trainer=deepspeed_zero3, or bf16-mixed on a GPU that has it"
        )
    profiler = build(cfg.profiler) if cfg.profiler else None
    if isinstance(profiler, L.Callback):  # PyTorch's, for a few steps
        callbacks, profiler = [*callbacks, profiler], None
    build_it = functools.partial(
        L.Trainer,
        **settings,
        profiler=profiler,
        max_epochs=-1,
        accumulate_grad_batches=accumulation,
        # Lightning counts micro-batches here, people count optimizer steps.
        val_check_interval=val_every_n_steps(cfg.trainer, settings["max_steps"]) * accumulation,
        check_val_every_n_epoch=None,
        callbacks=callbacks,
        logger=loggers,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )
    try:
        trainer = build_it()
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"the trainer can't be made of the settings under trainer: {error}") from error
    log.info(
        "%d steps of %d × %d tokens on %d × %s, %s, %.2f epochs",
        trainer.max_steps,
        datamodule.global_batch_size,
        datamodule.max_length,
        hardware.world_size,
        hardware.accelerator,
        trainer.precision,
        trainer.max_steps * datamodule.global_batch_size / datamodule.samples_per_epoch,
    )
    return trainer


def build(config: DictConfig, **more: Any) -> Any:
    """Instantiate a config's ``_target_`` with plain Python values and with objects Hydra must leave as they are."""
    for key in OmegaConf.missing_keys(config):
        raise UserError(f"{config._get_full_key(key)} has no value: give {config._get_full_key(key)}=…")
    target = instantiate(config, _partial_=True, _convert_="all")
    try:
        return target(**more)
    except TypeError as error:
        if not re.search(r"\(\) (got an unexpected keyword|missing)", str(error)):
            raise
        raise UserError(
            f"{config._get_full_key(None)}: {error}; the settings there are are shown by --cfg job"
        ) from error


def total_steps(trainer: DictConfig, datamodule: PackedDataModule) -> int:
    """Optimizer steps of the run: ``trainer.max_steps``, or as many as ``trainer.max_epochs`` take."""
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    for name, value in (("max_steps", steps), ("max_epochs", epochs)):
        if value is not None and (isinstance(value, (bool, str)) or value <= 0):
            raise UserError(f"trainer.{name} must be a positive number or null, found {value!r}")
    if (steps is None) == (epochs is None):
        raise UserError("give either trainer.max_steps or trainer.max_epochs, and set the other one to null")
    if steps is not None:
        return int(steps)
    return max(1, math.ceil(epochs * datamodule.samples_per_epoch / datamodule.global_batch_size))


def val_every_n_steps(trainer: DictConfig, max_steps: int) -> int:
    """Optimizer steps between validations, at most all of them."""
    value = trainer.val_every_n_steps
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"trainer.val_every_n_steps must be a whole number of at least 1, found {value!r}")
    return min(value, max_steps)


def validate(trainer: L.Trainer, module: CausalLM, datamodule: PackedDataModule) -> dict[str, float]:
    """Metrics of the model as it is now; none where nothing is held out."""
    if not datamodule.validation_names or trainer.limit_val_batches == 0:
        return {}
    trainer.validate(module, datamodule, verbose=False)
    return {name: value for name, value in floats(trainer.callback_metrics).items() if name.startswith("val/")}


def hush() -> None:
    """Silence what libraries say about themselves, so that what is said about the run can be seen."""
    for name in ("utilities.rank_zero", "accelerators.cuda", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    for message in (".*is_gradient_checkpointing.*", ".*LeafSpec.*", "Experiment logs directory.*", ".*num_workers.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")  # DeepSpeed's collectives
    warnings.filterwarnings("ignore", message="The `srun` command is available.*")  # said wherever Slurm is installed
    warnings.filterwarnings("ignore", message="Checkpoint directory.*exists and is not empty.*")


def floats(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
