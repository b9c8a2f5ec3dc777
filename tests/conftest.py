"""What many tests need: the real small model, a random tiny one, and training configs with a temporary run folder."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

os.environ.setdefault("WANDB_MODE", "offline")
# Before torch starts its threads: where several processes share the cores, threads that spin while they wait for each
# other take the time away from those they wait for.
os.environ.setdefault("GOMP_SPINCOUNT", "200")

from src.command import CONFIGS
from src.models.download import resolve
from src.models.spec import ModelSpec
from src.models.zoo import find_model


@pytest.fixture(scope="session")
def smollm2() -> ModelSpec:
    return find_model("smollm2_135m")


@pytest.fixture(scope="session")
def smollm2_dir(smollm2: ModelSpec) -> Path:
    """The embedded default model as a Hugging Face folder; fetched and converted by the first test that asks."""
    return resolve(smollm2)


@pytest.fixture(scope="session")
def llama_tiny(smollm2_dir: Path) -> ModelSpec:
    """Two layers with random weights and SmolLM2's tokenizer."""
    return find_model("llama_tiny")


@pytest.fixture(scope="session")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a hundred instructions with short answers."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"instruction": f"Double {n}.", "input": "", "output": f"{2 * n}"} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def compose_train(tmp_path: Path) -> Callable[[Sequence[str]], DictConfig]:
    """Compose ``configs/train.yaml`` with overrides; the run folder is below ``tmp_path``."""

    def composed(overrides: Sequence[str]) -> DictConfig:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("train", overrides=["logger=csv", *overrides])
        with open_dict(cfg):
            cfg.paths.output_dir = str(tmp_path / "run")
        Path(cfg.paths.output_dir).mkdir(exist_ok=True)
        OmegaConf.resolve(cfg)
        return cfg

    return composed
