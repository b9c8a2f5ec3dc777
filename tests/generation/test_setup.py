"""Which engine is opened, and what is refused before anything is loaded."""

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.command import CONFIGS, group_options
from src.errors import UserError
from src.generation import setup
from src.generation.setup import Auto, LlamaCpp, OpenAI, Transformers, Use, Vllm, load_engine, slots
from src.models.placement import Allocation
from src.models.zoo import find_model


@pytest.mark.parametrize("name", group_options("engine"))
def test_every_engine_config_makes_an_engine_kind(name):
    config = OmegaConf.create(
        {"paths": {"root_dir": "/nowhere"}, "engine": OmegaConf.load(CONFIGS / "engine" / f"{name}.yaml")}
    )
    if name == "openai":
        config.engine.base_url, config.engine.model = "http://localhost/v1", "any"
    assert hasattr(instantiate(config.engine), "open")


def test_auto_takes_llamacpp_on_a_cpu_and_transformers_for_what_only_it_can_do(smollm2, llama_tiny, monkeypatch):
    monkeypatch.setattr(setup.torch.cuda, "is_available", lambda: False)
    assert isinstance(Auto().choose(Use(smollm2))[0], LlamaCpp)
    assert isinstance(Auto().choose(Use(smollm2, quantization="8bit"))[0], LlamaCpp)
    for use in (Use(llama_tiny), Use(smollm2, allocation=Allocation((), 8.0)), Use(smollm2, dtype="float32")):
        assert isinstance(Auto().choose(use)[0], Transformers)
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    assert isinstance(Auto().choose(Use(smollm2))[0], Transformers)


def test_auto_takes_vllm_where_there_is_a_gpu_and_its_environment(smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr(setup.torch.cuda, "is_available", lambda: True)
    python = tmp_path / "python"
    kind, why = Auto(str(python)).choose(Use(smollm2))
    assert isinstance(kind, Transformers) and "make vllm" in why
    python.touch()
    assert Auto(str(python)).choose(Use(smollm2))[0] == Vllm(python=str(python))


def test_vllm_without_its_environment_says_how_to_get_it(smollm2):
    with pytest.raises(UserError, match="make vllm"):
        load_engine(smollm2, Vllm(python="/nowhere/python"), context_length=64)


def test_what_an_engine_has_no_use_for_is_refused_by_the_name_the_user_knows(smollm2):
    with pytest.raises(UserError, match="engine=llamacpp takes no allocate"):
        load_engine(smollm2, LlamaCpp(), allocation=Allocation((), 8.0))
    with pytest.raises(UserError, match="engine=openai takes no quantization"):
        load_engine(smollm2, OpenAI("http://localhost/v1", "any"), quantization="8bit")
    with pytest.raises(UserError, match="GPTQ or AWQ"):
        load_engine(smollm2, Vllm(python="/nowhere/python"), quantization="4bit")


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (OpenAI("http://localhost/v1", "any"), {"template": "alpaca"}, "engine=openai takes no template"),
        (OpenAI("http://localhost/v1", "any"), {"dtype": "float16"}, "engine=openai takes no dtype"),
        (OpenAI("http://localhost/v1", "any"), {"device": "cpu"}, "engine=openai takes no device"),
        (OpenAI("http://localhost/v1", "any"), {"context_length": 64}, "engine=openai takes no context_length"),
        (Vllm(python="/nowhere/python"), {"device": "mps"}, "engine=vllm takes no device"),
        (LlamaCpp(), {"device": "mps"}, "engine=llamacpp takes no device"),
        (LlamaCpp(), {"quantization": "int8"}, "quantization=int8 is not known: set none, 8bit, 4bit"),
        (LlamaCpp("f32"), {"quantization": "8bit"}, "quantization=8bit and engine.file_type=f32 were given"),
    ],
)
def test_a_setting_without_effect_is_refused(smollm2, kind, settings, words):
    with pytest.raises(UserError, match=words):
        load_engine(smollm2, kind, **settings)


def test_the_file_and_the_class_of_llamacpp_agree():
    assert instantiate(OmegaConf.load(CONFIGS / "engine" / "llamacpp.yaml")) == LlamaCpp()


@pytest.mark.slow
def test_auto_on_a_device_that_is_the_cpu_opens_llamacpp_without_a_gpu(smollm2):
    engine, _ = load_engine(smollm2, Auto(), device="cpu", context_length=64, max_parallel=1)
    assert engine.name == "llamacpp" and json.loads(engine.server.command(1)[-1])["gpu_layers"] == 0
    engine.close()


def test_an_adapter_with_a_name_that_is_taken_is_refused(smollm2, adapters, tmp_path):
    python = tmp_path / "python"
    python.touch()
    for name in ("base", "no-adapter"):
        with pytest.raises(UserError, match=f"'{name}', which engine=vllm needs itself"):
            load_engine(smollm2, Vllm(python=str(python)), adapters={name: str(adapters["first"])})
    with pytest.raises(UserError, match="the name 'second' of adapter_path's folder"):
        load_engine(
            smollm2, LlamaCpp(), adapters={"second": str(adapters["first"])}, adapter_path=str(adapters["second"])
        )


def test_an_adapter_folder_that_is_none_is_refused_before_loading(smollm2, tmp_path):
    for kind in (Transformers(), LlamaCpp(), Vllm(python="/nowhere/python")):
        with pytest.raises(UserError, match="not a PEFT folder"):
            load_engine(smollm2, kind, adapters={"mine": str(tmp_path)})


def test_slots_of_llamacpp_fit_in_a_quarter_of_free_memory(smollm2, monkeypatch):
    cache_of_one_token = 2 * 2 * 30 * 3 * 64  # keys and values, 16 bits, 30 layers, 3 heads of 64
    monkeypatch.setattr(setup, "free_host_bytes", lambda: 4 * 5 * 1000 * cache_of_one_token)
    assert slots(smollm2, 1000) == 5
    assert slots(smollm2, 10_000) == 1
    assert slots(smollm2, 10) == 32


def test_a_quarter_of_28_gb_has_room_for_four_contexts_of_a_13b_model(monkeypatch):
    monkeypatch.setattr(setup, "free_host_bytes", lambda: 28 * 10**9)
    assert slots(find_model("knowlm_13b_zhixi"), 2048) == 4


def test_the_environment_of_vllm_lies_in_the_checkout():
    text = (CONFIGS / "engine" / "vllm.yaml").read_text(encoding="utf-8")
    assert ".venv-vllm/bin/python" in text and Path(CONFIGS.parent / "scripts/launch/install_vllm.sh").is_file()
