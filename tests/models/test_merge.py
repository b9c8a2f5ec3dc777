"""Merging changes what the adapter says, says by how much, and refuses to change nothing."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from src.errors import UserError
from src.models.download import resolve
from src.models.export import export_adapter, merge_adapter
from src.models.load import load_model
from src.models.merge import merge
from src.models.spec import ModelSpec
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder


def adapted(spec: ModelSpec, dtype: str = "float32", size: float = 0.1):
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"])
    model = get_peft_model(load_model(spec, dtype=dtype), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=size) if size else parameter.zero_()
    return model


def test_the_largest_change_is_the_adapters(tiny_spec: ModelSpec) -> None:
    model = adapted(tiny_spec)
    deltas = {
        kind: max(
            float(module.get_delta_weight("default").detach().abs().max())
            for name, module in model.named_modules()
            if name.endswith(kind)
        )
        for kind in ("q_proj", "down_proj")
    }
    merged, modules = merge(model, "a")
    assert not hasattr(merged, "peft_config")
    for kind, largest in deltas.items():
        assert (modules[kind].tensors, modules[kind].changed) == (2, 2)
        assert modules[kind].largest_change == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapter_on_one_of_two_tied_layers_changes_only_that_one(tmp_path: Path, settings: dict) -> None:
    base = write_decoder(tmp_path / "base", write_byte_tokenizer(tmp_path / "t"), tie_word_embeddings=True)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, **settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    folder = merge_adapter(ModelSpec(path=str(base)), tmp_path / "adapter", tmp_path / "merged")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    ids = torch.tensor([[5, 60, 7, 200, 11, 12]])
    with torch.no_grad():
        expected, loaded = model(ids).logits, AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        torch.testing.assert_close(loaded, expected, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(merge(model, "a")[0](ids).logits, expected, atol=1e-3, rtol=1e-4)


def test_an_adapter_that_is_no_number_is_refused(tiny_spec: ModelSpec) -> None:
    with pytest.raises(UserError, match=r"adapter 'a' makes weights of .*q_proj that are not finite numbers"):
        merge(adapted(tiny_spec, size=float("inf")), "a")


def test_an_untrained_adapter_is_refused(tiny_spec: ModelSpec) -> None:
    with pytest.raises(UserError, match=r"adapter 'a' changes no weight of q_proj, down_proj: it is untrained"):
        merge(adapted(tiny_spec, size=0.0), "a")


def test_changes_that_a_coarse_type_swallows_are_noticed(tiny_spec: ModelSpec) -> None:
    for dtype in ("bfloat16", "float32"):
        model = adapted(tiny_spec, dtype, size=1e-4)
        for name, parameter in model.named_parameters():
            if "base_layer" in name:
                parameter.data.fill_(1.0)
        if dtype == "bfloat16":
            with pytest.raises(UserError, match=r"too small for bfloat16 \(give dtype=float32\)"):
                merge(model, "a")
        else:
            _, modules = merge(model, "a")
            assert modules["q_proj"].changed_weights > 0.99 * modules["q_proj"].weights


def test_the_manifest_names_what_was_merged(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    adapter = export_adapter(adapted(tiny_spec), tmp_path / "adapter")
    folder = merge_adapter(tiny_spec, adapter, tmp_path / "merged")
    found = json.loads((folder / "merge.json").read_text())
    for part, path in (("base", resolve(tiny_spec)), ("adapter", adapter), ("merged", folder)):
        for name, sha256 in found[part]["files"].items():
            assert hashlib.sha256((path / name).read_bytes()).hexdigest() == sha256
    assert set(found["adapter"]["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert "model.safetensors" in found["base"]["files"] and found["base"]["name"] == "tiny"
    before, after = load_file(resolve(tiny_spec) / "model.safetensors"), load_file(folder / "model.safetensors")
    changes = {name: float((after[name] - before[name].float()).abs().max()) for name in before}
    assert max(changes.values()) == pytest.approx(found["largest_change"])
    assert {name.split(".")[-2] for name, change in changes.items() if change} == set(found["modules"])
