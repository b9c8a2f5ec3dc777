"""The three engines with weights of 32 bits, each started once, on the same small model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.generation.engine import Decoding, Engine, Event, Request
from src.generation.setup import LlamaCpp, Transformers, Vllm, load_engine
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
def vllm_engine(smollm2: ModelSpec) -> Iterator[Engine]:
    if not VLLM.is_file():
        pytest.skip("vLLM's environment is not there: make vllm")
    kind = Vllm(python=str(VLLM), enforce_eager=True, kv_cache_gb=1)
    engine, _ = load_engine(smollm2, kind, dtype="float32", context_length=CONTEXT, max_parallel=4)
    yield engine
    engine.close()


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
