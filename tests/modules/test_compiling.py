"""Compiled layers compute what others do and keep the names of their weights; a missing compiler is said."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from src.datamodules.layout import with_layout
from src.errors import UserError
from src.models.activation_checkpointing import Checkpointing
from src.modules.compiling import check_compile, compile_model
from src.modules.loss import supervised_loss

CPU = torch.device("cpu")


def has_compiler() -> bool:
    try:
        check_compile(True, CPU)
    except UserError:
        return False
    return True


def llama(setting: bool | str, checkpointing: str = "none", attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention)
    Checkpointing.parse(checkpointing).apply(model)
    compile_model(model, setting)
    return model.train()


def batch(*lengths: int) -> dict[str, Any]:
    ids = torch.randint(64, (1, sum(lengths)), generator=torch.Generator().manual_seed(len(lengths)))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return with_layout({"input_ids": ids, "position_ids": positions, "labels": ids.clone()})


def losses_of_steps(model: Any) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for lengths in ((40, 24), (1, 63), (10, 20, 34)):
        total: Tensor = supervised_loss(model, batch(*lengths)).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
def test_regionally_compiled_layers_recomputing_cheap_parts_give_the_losses_of_eager_ones() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = llama("regional", "selective")
    assert losses_of_steps(model) == pytest.approx(losses_of_steps(llama(False)), rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # which all layers share
    assert list(model.state_dict()) == list(llama(False).state_dict())


@pytest.mark.parametrize("setting", ["regional", True])
def test_weights_keep_their_names(setting: bool | str) -> None:
    names = [name for name, _ in llama(setting).named_parameters()]
    assert names == [name for name, _ in llama(False).named_parameters()]


def test_regional_compiles_each_layer_and_true_the_decoder() -> None:
    assert all(layer._compiled_call_impl is not None for layer in llama("regional").model.layers)
    whole = llama(True).model
    assert whole._compiled_call_impl is not None and whole.layers[0]._compiled_call_impl is None


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from torch._inductor import cpp_builder

    for name in ("get_cpp_compiler", "cpp_compiler_search"):
        if hasattr(function := getattr(cpp_builder, name), "cache_clear"):
            function.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", os.fspath(tmp_path / "g++"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (os.fspath(tmp_path / "g++"),))
    with pytest.raises(UserError, match=r"module.compile=regional needs a C\+\+ compiler: install g\+\+"):
        check_compile("regional", CPU)


def test_other_settings_are_refused() -> None:
    with pytest.raises(UserError, match="must be false, true or regional, found 'layers'"):
        check_compile("layers", CPU)
