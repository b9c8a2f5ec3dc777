"""Recomputed activations give the same numbers, less is kept, and only what was said is computed again."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from src.datamodules.layout import with_layout
from src.errors import UserError
from src.models.activation_checkpointing import Checkpointing
from src.modules.loss import supervised_loss

SETTINGS = ["selective", "full", "every_2", "every_3"]


def llama(setting: str, attention: str = "packed_varlen", adapter: bool = False) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model: Any = LlamaForCausalLM._from_config(config, attn_implementation=attention)
    Checkpointing.parse(setting).apply(model)
    if adapter:
        modules = ["q_proj", "v_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.5, target_modules=modules))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
    return model.train()


def batch() -> dict[str, Any]:
    ids = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(25), torch.arange(15)]).repeat(2, 1)
    return with_layout({"input_ids": ids, "position_ids": positions, "labels": ids.clone()})


def step(model: nn.Module, autocast: bool = False) -> dict[str, Tensor]:
    """Loss and gradients of the trained parameters."""
    torch.manual_seed(5)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total = supervised_loss(model, batch()).total
    total.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {"loss": total.detach(), **grads}  # type: ignore[dict-item]


def kept_bytes(setting: str, autocast: bool = True) -> int:
    """Bytes of the tensors that autograd keeps between forward and backward pass, parameters left out."""
    model = llama(setting)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # or memory of dropped tensors would be used again and counted once

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    found = batch()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert supervised_loss(model, found).total > 0
    return sum(kept.values())


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_losses_and_gradients_are_those_of_kept_activations(setting: str, autocast: bool) -> None:
    found, wanted = step(llama(setting), autocast), step(llama("none"), autocast)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


@pytest.mark.parametrize("setting", SETTINGS)
def test_adapters_on_frozen_weights_get_the_same_gradients_dropout_included(setting: str) -> None:
    found, wanted = step(llama(setting, adapter=True)), step(llama("none", adapter=True))
    assert any("lora_A" in name for name in wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_selective_works_with_other_attention(attention: str) -> None:
    found, wanted = step(llama("selective", attention)), step(llama("none", attention))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def product_flops(setting: str) -> tuple[int, int]:
    """FLOPs of matrix products in the forward pass of the decoder layers, and in the backward pass of everything."""
    model = llama(setting)
    with FlopCounterMode(display=False) as forward:
        hidden = model.model(batch()["input_ids"], use_cache=False).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        hidden.sum().backward()
    return tuple(counter.get_flop_counts()["Global"][torch.ops.aten.mm] for counter in (forward, backward))  # type: ignore[return-value]


def test_selective_computes_no_matrix_product_again_and_full_computes_all_but_the_last() -> None:
    forward, backward = product_flops("none")
    assert product_flops("selective") == (forward, backward)
    last = 4 * 2 * 80 * 96 * 32  # layers × 2 × tokens × down_proj, whose result nothing in the layer needs
    assert product_flops("full") == (forward, backward + forward - last)
    assert product_flops("every_2") == (forward, backward + (forward - last) // 2)


def test_less_is_kept_the_more_is_recomputed() -> None:
    none, half, full = (kept_bytes(setting) for setting in ("none", "every_2", "full"))
    assert full < 0.35 * none and full < half < 0.75 * none


def test_evaluation_recomputes_nothing() -> None:
    model = llama("full").eval()
    with torch.no_grad():
        assert not supervised_loss(model, batch()).total.requires_grad


@pytest.mark.parametrize("setting", ["every_0", "some", "every", True, None, "every_-1"])
def test_other_settings_are_refused(setting: Any) -> None:
    with pytest.raises(UserError, match="must be none, full, selective or every_N such as every_2, found"):
        Checkpointing.parse(setting)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="Linear has no layers that can be recomputed"):
        Checkpointing.parse("full").apply(nn.Linear(2, 2))
