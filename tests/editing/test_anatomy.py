"""Each family's parts are found, and they are what they are said to be: what the MLP adds is what its matrix gives."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, MixtralConfig

from src.editing.anatomy import find_anatomy
from src.errors import UserError
from tests.editing.tiny_families import FAMILIES, KEY_SIZES, tiny

IDS = torch.tensor([[5, 9, 17, 30, 8]])


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_found(family: str) -> None:
    anatomy = find_anatomy(tiny(family))
    assert (anatomy.count, anatomy.hidden_size, anatomy.key_size) == (3, 32, KEY_SIZES.get(family, 80))
    assert anatomy.norm and anatomy.mlp != anatomy.attention
    assert anatomy.attention_out.startswith(anatomy.attention + ".")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlp_does_not_mix_positions_and_its_last_matrix_gives_what_it_adds(family: str) -> None:
    model = tiny(family)
    anatomy = find_anatomy(model)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        def hook(module, inputs, output):  # type: ignore[no-untyped-def]
            given, found = inputs[0], output[0] if isinstance(output, tuple) else output
            seen[name + " in"] = given.detach().reshape(-1, given.shape[-1])
            seen[name] = found.detach().reshape(-1, found.shape[-1])

        return hook

    layer = model.get_submodule(anatomy.layer(1))
    layer.get_submodule(anatomy.mlp_out).register_forward_hook(keep("mlp_out"))
    layer.get_submodule(anatomy.mlp).register_forward_hook(keep("mlp"))
    with torch.no_grad():
        model(IDS)
    product = seen["mlp_out in"] @ anatomy.weight(model, 1).T
    bias = getattr(layer.get_submodule(anatomy.mlp_out), "bias", None)
    product = product if bias is None else product + bias.detach()
    torch.testing.assert_close(product, seen["mlp_out"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["mlp"], seen["mlp_out"])
    inputs, whole = seen["mlp in"][2:3], seen["mlp"][2:3]
    alone = layer.get_submodule(anatomy.mlp)(inputs)
    torch.testing.assert_close(alone.detach().reshape(1, -1), whole, rtol=1e-4, atol=1e-4)


def test_the_weight_is_a_view_that_edits_the_model() -> None:
    for family in ("llama", "gpt2"):
        model = tiny(family)
        anatomy = find_anatomy(model)
        before = model(IDS).logits
        assert anatomy.weight(model, 1).shape == (32, anatomy.key_size)
        with torch.no_grad():
            anatomy.weight(model, 1)[0, 0] += 5
        assert anatomy.parameter(1) in dict(model.named_parameters())
        assert not torch.equal(model(IDS).logits, before)


def test_layers_by_depth_and_by_number() -> None:
    anatomy = find_anatomy(tiny("llama"))
    assert [anatomy.at(depth) for depth in (0, 0.2, 0.5, 1)] == [0, 1, 2, 2]
    with pytest.raises(UserError, match="layer 3 does not exist: the model has 3, 0 to 2"):
        anatomy.layer(3)


def test_experts_and_encoders_are_refused() -> None:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}
    with pytest.raises(UserError, match="can't be edited"):
        find_anatomy(AutoModelForCausalLM.from_config(MixtralConfig(**settings)))
    plain = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    with pytest.raises(UserError, match="can't be edited"):
        find_anatomy(BertModel(plain).get_submodule("embeddings"))  # type: ignore[arg-type]
