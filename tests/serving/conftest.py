"""Servers for the tests of this room: a random two-layer model in this process, the 135M model by the real command."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from src.generation.engine import Engine
from src.generation.setup import load_engine
from src.models.spec import ModelSpec
from src.serving.app import create_app
from src.serving.served import ServedModel
from src.serving.settings import Settings
from tests.serving.serving_live import Command, in_thread


@pytest.fixture(scope="session")
def tiny_engine(llama_tiny: ModelSpec) -> Iterator[Engine]:
    """transformers with two random layers: answers at once, and nonsense, the same in every run."""
    torch.manual_seed(0)
    engine, _ = load_engine(llama_tiny, chat=True, max_parallel=2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tiny_models(tiny_engine: Engine) -> list[ServedModel]:
    """One model that talks, and one of the same engine that doesn't."""
    return [ServedModel("tiny", tiny_engine), ServedModel("plain", tiny_engine, talks=False)]


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The access log of `tiny`."""
    return tmp_path_factory.mktemp("tiny") / "access.jsonl"


@pytest.fixture(scope="session")
def tiny(tiny_models: list[ServedModel], tiny_log: Path) -> Iterator[str]:
    """Address of a server of the tiny model."""
    with in_thread(create_app(tiny_models, Settings(log_file=str(tiny_log)))) as url:
        yield url


@pytest.fixture(scope="session")
def random_adapter(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the 135M model with random weights, so that its answers differ."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(smollm2_dir)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    folder = tmp_path_factory.mktemp("adapter") / "noise"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served(smollm2: ModelSpec, random_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The real command with the 135M model on llama.cpp, and an adapter called "noise"."""
    command = Command(
        tmp_path_factory.mktemp("served"),
        "engine=llamacpp",
        "max_parallel=4",
        "context_length=2048",
        "max_waiting=8",
        f"adapters={{noise: '{random_adapter}'}}",
    )
    try:
        yield command.wait_until_ready()
    finally:
        command.stop()
