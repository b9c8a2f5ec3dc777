"""The standard cleaning configuration, as the steps it makes for each language."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.corpus.steps import CleaningStep

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def standard_steps() -> Callable[[str], dict[str, CleaningStep]]:
    config = OmegaConf.create(
        {"paths": {"root_dir": str(ROOT)}, "cleaning": OmegaConf.load(ROOT / "configs/cleaning/standard.yaml")}
    )
    return lambda language: instantiate(config.cleaning[language])
