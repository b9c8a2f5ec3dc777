"""What is vLLM's own: adapters by PEFT folder, and coming back after a part of it was killed."""

import json
import os
import signal
import time

import psutil
import pytest

from src.errors import UserError
from src.generation.engine import EngineDown
from src.generation.engines import server_process
from src.generation.engines.vllm_engine import _rank
from src.generation.setup import Transformers, load_engine
from tests.generation.conftest import answer
from tests.generation.engines.test_llamacpp_engine import with_adapters


@pytest.mark.slow
def test_each_request_has_its_own_adapter_and_they_are_those_of_peft(vllm_engine, smollm2, adapters):
    paths = {name: str(path) for name, path in adapters.items()}
    reference, _ = load_engine(smollm2, Transformers(), adapters=paths, dtype="float32")
    assert with_adapters(vllm_engine) == with_adapters(reference)


@pytest.mark.slow
def test_when_its_engine_core_dies_the_whole_server_is_started_again(vllm_engine, monkeypatch):
    monkeypatch.setattr(server_process, "BACKOFF_S", (0.5,))
    before = answer(vllm_engine, "Water boils at", max_new_tokens=4)[0]
    server = psutil.Process(vllm_engine.server.pid)
    core = max(server.children(recursive=True), key=lambda child: child.memory_info().rss)
    os.kill(core.pid, signal.SIGKILL)
    deadline, refused = time.monotonic() + 240, 0
    while time.monotonic() < deadline:
        try:
            assert answer(vllm_engine, "Water boils at", max_new_tokens=4)[0] == before
            break
        except EngineDown:
            refused += 1
            time.sleep(0.5)
    assert refused and vllm_engine.server.restarts == 1 and vllm_engine.is_ready()


def test_the_rank_is_the_smallest_that_vllm_allows_for_every_adapter(tmp_path):
    def adapter(name, **settings):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": 8, **settings}))
        return folder

    assert _rank({"a": adapter("a"), "b": adapter("b", rank_pattern={"q_proj": 12})}) == 16
    with pytest.raises(UserError, match="rank 600"):
        _rank({"c": adapter("c", r=600)})
    with pytest.raises(UserError, match="'d' has DoRA"):
        _rank({"d": adapter("d", use_dora=True)})
