"""The three engines with weights of 32 bits, each started once, on the same small model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from src.generation.engine import Decoding, Engine, Event, Request
from src.generation.setup import LlamaCpp, Transformers, Vllm, load_engine
from src.models.load import load_model
from src.models.spec import ModelSpec

CONTEXT = 512
VLLM = Path(os.environ.get("KNOWLM_VLLM_PYTHON", Path(__file__).resolve().parents[2] / ".venv-vllm/bin/python"))


@pytest.fixture(scope="session")
def transformers_engine(smollm2: ModelSpec) -> Iterator[Engine]:
    engine, _ = load_engine(smollm2, Transformers(), dtype="float32", context_length=CONTEXT, max_parallel=4)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def llamacpp_engine(smollm2: ModelSpec) -> Iterator[Engine]:
    engine, _ = load_engine(smollm2, LlamaCpp("f32"), context_length=CONTEXT, max_parallel=4)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_engine(smollm2: ModelSpec, adapters: dict[str, Path]) -> Iterator[Engine]:
    if not VLLM.is_file():
        pytest.skip("vLLM's environment is not there: make vllm")
    kind = Vllm(python=str(VLLM), enforce_eager=True, kv_cache_gb=1)
    names = {name: str(path) for name, path in adapters.items()}
    engine, _ = load_engine(smollm2, kind, adapters=names, dtype="float32", context_length=CONTEXT, max_parallel=4)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def adapters(smollm2: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters with random weights, large enough to change every answer."""
    folders = {}
    for seed, (name, targets) in enumerate({"first": ["q_proj", "v_proj"], "second": ["down_proj", "k_proj"]}.items()):
        torch.manual_seed(seed)
        model = get_peft_model(load_model(smollm2), LoraConfig(r=4 + 4 * seed, lora_alpha=8, target_modules=targets))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(str(folders[name]))
    return folders


@pytest.fixture(params=["transformers", "llamacpp", "vllm"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


def answer(engine: Engine, prompt: str, **decoding: object) -> tuple[str, list[Event]]:
    """The text of one answer and its events."""
    request = Request("1", prompt=prompt, decoding=Decoding(**decoding))  # type: ignore[arg-type]
    events = list(engine.generate([request]))
    return "".join(event.text_delta for event in events), events
