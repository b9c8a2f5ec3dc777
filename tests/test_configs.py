"""Every config composes, and every part of it that can be made without data or GPUs is made."""

from pathlib import Path

import lightning as L
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.command import CONFIGS, group_options, leading_comment
from src.modules.causal_lm import CausalLM
from src.modules.lora import LoRA
from src.modules.optimizer import AdamW, Schedule
from src.training import build

ROOTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
NOT_OF_TRAINING = {
    "hydra",
    "paths",
    "experiment",
    "hparams_search",  # tests/end_to_end/test_sweeps.py
    "corpus",
    "cleaning",
    "schema",  # tests/extraction/readers/test_schemas.py
    "extraction_data",  # tests/end_to_end/test_prepare_extraction_command.py
    "dedup",
    "executor",
    "decoding",
    "engine",
    "prompt_template",
}
GROUPS = sorted({path.name for path in CONFIGS.iterdir() if path.is_dir()} - NOT_OF_TRAINING)
FILES = sorted(CONFIGS.rglob("*.yaml"))


def composed(root: str, overrides: list[str], run_folder: Path) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(root, overrides=[*overrides, f"hydra.run.dir='{run_folder}'"], return_hydra_config=True)
    OmegaConf.update(cfg, "hydra.runtime.output_dir", str(run_folder), force_add=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.mark.parametrize("root", ROOTS)
def test_root_configs_compose_and_their_values_resolve(root: str, tmp_path: Path) -> None:
    cfg = composed(root, [], tmp_path)
    for key in cfg:
        if key != "hydra" and not OmegaConf.is_missing(cfg, key) and OmegaConf.is_config(cfg[key]):
            assert "${" not in str(OmegaConf.to_container(cfg[key], resolve=True))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_file_opens_with_what_it_is(file: Path) -> None:
    assert len(leading_comment(file.read_text(encoding="utf-8"))) > 10


@pytest.mark.parametrize("experiment", group_options("experiment"))
def test_experiments_compose_and_their_parts_are_made(experiment: str, tmp_path: Path) -> None:
    train = "/nowhere.json" if "sft" in experiment else None
    cfg = composed("train", [f"experiment={experiment}", *([f"data.train={train}"] if train else [])], tmp_path)
    model = build(cfg.model)
    module = build(cfg.module, model=model)
    assert type(module) is (LoRA if "adapter" in cfg and cfg.adapter else CausalLM)
    assert (type(module) is CausalLM) == (experiment.startswith("pretrain") or experiment == "sft_ie_smollm2")
    assert isinstance(build(cfg.optimizer), AdamW) and isinstance(build(cfg.scheduler), Schedule)
    assert all(isinstance(build(callback), L.Callback) for callback in cfg.callbacks.values())
    data = build(cfg.data, model=model)
    assert data.global_batch_size % data.micro_batch_size == 0
    assert cfg.run_name == experiment


def test_pretrain_zh_is_the_recipe_of_knowlm(tmp_path: Path) -> None:
    cfg = composed("train", ["experiment=pretrain_zh"], tmp_path)
    gpus = cfg.trainer.devices * cfg.trainer.num_nodes
    assert gpus == 24 and cfg.data.micro_batch_size * 3 * gpus == cfg.data.global_batch_size
    assert (cfg.data.max_length, cfg.optimizer.lr, list(cfg.optimizer.betas)) == (1024, 1.5e-5, [0.9, 0.95])
    assert (cfg.optimizer.weight_decay, cfg.scheduler.warmup_steps, cfg.trainer.precision) == (0.1, 300, "16-mixed")
    assert cfg.module.activation_checkpointing == "full" and cfg.trainer.strategy.stage == 3


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_every_training_group_composes(group: str, tmp_path: Path) -> None:
    for option in group_options(group):
        more = ["model.path=."] if option == "custom" else []
        cfg = composed("train", [f"{group}={option}", *more], tmp_path)
        assert cfg[group] is not None


@pytest.mark.parametrize("logger", group_options("logger"))
def test_loggers_are_made(logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    cfg = composed("train", [f"logger={logger}"], tmp_path)
    assert all(isinstance(build(one), L.pytorch.loggers.Logger) for one in cfg.logger.values())


def test_the_zero_strategy_is_made_with_its_settings(tmp_path: Path) -> None:
    cfg = composed("train", ["trainer=v100x24"], tmp_path)
    strategy = build(cfg.trainer.strategy)
    zero = strategy.config["zero_optimization"]
    assert zero["stage"] == 3 and zero["offload_optimizer"]["device"] == "cpu"
    assert strategy.config["zero_force_ds_cpu_optimizer"] is False  # or it refuses PyTorch's AdamW
