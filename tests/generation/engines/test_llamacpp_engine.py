"""What is llama.cpp's own: adapters per request, and coming back after its process was killed."""

import os
import signal
import time

import pytest

from src.errors import UserError
from src.generation.engine import Decoding, EngineDown, Request
from src.generation.engines import server_process
from src.generation.setup import LlamaCpp, Transformers, load_engine
from tests.generation.conftest import answer

pytestmark = pytest.mark.slow


def with_adapters(engine) -> dict[str | None, str]:
    names = [None, "first", "second", None]
    decoding = Decoding(max_new_tokens=10, ignore_eos=True)
    requests = [
        Request(str(n), prompt="The old house by the sea", decoding=decoding, adapter=name)
        for n, name in enumerate(names)
    ]
    texts = dict.fromkeys("0123", "")
    for event in engine.generate(requests):
        texts[event.request_id] += event.text_delta
    assert texts["0"] == texts["3"]
    return dict(zip(names, texts.values(), strict=True))


def test_each_request_has_its_own_adapter_and_they_are_those_of_peft(smollm2, adapters):
    paths = {name: str(path) for name, path in adapters.items()}
    reference, _ = load_engine(smollm2, Transformers(), adapters=paths, dtype="float32", context_length=128)
    expected = with_adapters(reference)
    engine, _ = load_engine(smollm2, LlamaCpp("f32"), adapters=paths, context_length=128, max_parallel=2)
    try:
        assert with_adapters(engine) == expected
        assert len(set(expected.values())) == 3
    finally:
        engine.close()


def test_an_adapter_path_is_on_every_answer(smollm2, adapters):
    alone, _ = load_engine(
        smollm2, LlamaCpp("f32"), adapter_path=str(adapters["first"]), context_length=128, max_parallel=1
    )
    reference, _ = load_engine(smollm2, Transformers(), adapter_path=str(adapters["first"]), dtype="float32")
    try:
        how = {"max_new_tokens": 10, "ignore_eos": True}
        assert answer(alone, "The old house", **how)[0] == answer(reference, "The old house", **how)[0]
    finally:
        alone.close()


def test_a_killed_engine_says_so_and_comes_back(llamacpp_engine, monkeypatch):
    monkeypatch.setattr(server_process, "BACKOFF_S", (0.5,))
    before = answer(llamacpp_engine, "Water boils at", max_new_tokens=4)[0]
    os.kill(llamacpp_engine.server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    refused = 0
    while time.monotonic() < deadline:
        try:
            assert answer(llamacpp_engine, "Water boils at", max_new_tokens=4)[0] == before
            break
        except EngineDown:
            refused += 1
            time.sleep(0.2)
    assert refused and llamacpp_engine.is_ready()


def test_what_it_has_no_use_for_is_refused(smollm2):
    with pytest.raises(UserError, match=r"takes no dtype: give engine.file_type"):
        load_engine(smollm2, LlamaCpp(), dtype="float32")
    with pytest.raises(UserError, match=r"context_length=9000 must be between 2 and the model's 8192"):
        load_engine(smollm2, LlamaCpp(), context_length=9000)
