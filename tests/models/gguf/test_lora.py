"""A GGUF adapter changes llama.cpp's model as the PEFT folder changes transformers'."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from src.errors import UserError
from src.models.gguf.architecture import to_halves
from src.models.gguf.export import gguf_adapter, write_gguf
from src.models.gguf.lora import write_adapter
from src.models.gguf.quantize import open_gguf
from src.models.gguf.run import ask_llama_cpp
from src.models.spec import ModelSpec
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rank_stabilised": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"v_proj": 3},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    return write_decoder(root / "model", write_byte_tokenizer(root / "tokenizer"))


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def tuned(base: Path, folder: Path, **settings: Any) -> torch.nn.Module:
    """A model with a random adapter on it, which is saved as a PEFT folder."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "target_modules": ALL, **settings})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_pairs_multiply_to_pefts_change(base: Path, tmp_path: Path, kind: str) -> None:
    model = tuned(base, tmp_path / "adapter", **KINDS[kind])
    write_adapter(tmp_path / "adapter", config_of(base), tmp_path / "a.gguf")
    reader = open_gguf(tmp_path / "a.gguf")
    alpha = reader.fields["adapter.lora.alpha"].contents()
    pairs = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, short in (("self_attn.q_proj", "attn_q"), ("self_attn.v_proj", "attn_v"), ("mlp.down_proj", "ffn_down")):
        a, b = pairs[f"blk.0.{short}.weight.lora_a"], pairs[f"blk.0.{short}.weight.lora_b"]
        change = alpha / a.shape[0] * b @ a  # what llama.cpp computes
        change = to_halves(change, 4) if short == "attn_q" else change
        theirs = model.get_submodule(f"base_model.model.model.layers.0.{name}").get_delta_weight("default")
        np.testing.assert_allclose(change, theirs.detach().numpy(), atol=1e-6)


def test_the_file_says_that_it_is_an_adapter(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "adapter")
    write_adapter(tmp_path / "adapter", config_of(base), tmp_path / "a.gguf")
    fields = open_gguf(tmp_path / "a.gguf").fields
    names = ("general.type", "adapter.type", "general.architecture")
    assert [fields[name].contents() for name in names] == ["adapter", "lora", "llama"]


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"init_lora_weights": "pissa"},
        {"lora_alpha": 0},
    ],
)
def test_what_llama_cpp_cannot_do_says_merge_first(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    tuned(base, tmp_path / "adapter", **settings)
    with pytest.raises(UserError, match=r"merge it|leave it out"):
        write_adapter(tmp_path / "adapter", config_of(base), tmp_path / "a.gguf")


def test_an_adapter_of_a_tied_head_says_merge_first(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "adapter", target_modules=["lm_head"])
    write_adapter(tmp_path / "adapter", config_of(base), tmp_path / "a.gguf")
    tied = {**config_of(base), "tie_word_embeddings": True}
    with pytest.raises(UserError, match=r"lm_head\.lora_A\.weight, which llama\.cpp's adapters can't do"):
        write_adapter(tmp_path / "adapter", tied, tmp_path / "a.gguf")


def test_an_adapter_of_another_model_names_the_layer(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "adapter")
    wider = {**config_of(base), "intermediate_size": 128}
    with pytest.raises(UserError, match=r"does not fit the model at model\.layers\.0\.mlp"):
        write_adapter(tmp_path / "adapter", wider, tmp_path / "a.gguf")


def test_an_adapter_that_is_no_number_names_the_layer(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"][0, 3] = torch.nan
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"values at model\.layers\.1\.mlp\.up_proj that are not finite numbers"):
        write_adapter(tmp_path / "adapter", config_of(base), tmp_path / "a.gguf")


def test_an_adapter_is_converted_once(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "adapter")
    spec = ModelSpec(path=str(base), cache_dir=str(tmp_path / "cache"))
    first = gguf_adapter(tmp_path / "adapter", spec, tmp_path / "cache")
    written = first.stat().st_mtime_ns
    assert gguf_adapter(tmp_path / "adapter", spec, tmp_path / "cache").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="is not a PEFT folder"):
        gguf_adapter(base, spec, tmp_path / "cache")


def test_an_adapter_fits_a_model_that_is_a_gguf_file_itself(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "adapter")
    write_gguf(base, tmp_path / "m.gguf", "q8_0")
    spec = ModelSpec(path=str(tmp_path / "m.gguf"), cache_dir=str(tmp_path / "cache"))
    theirs = gguf_adapter(tmp_path / "adapter", ModelSpec(path=str(base)), tmp_path / "other")
    ours = gguf_adapter(tmp_path / "adapter", spec, tmp_path / "cache")
    assert ours.read_bytes() == theirs.read_bytes()
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["adapter"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_with_the_adapter_computes_what_peft_does(base: Path, tmp_path: Path, kind: str) -> None:
    model = tuned(base, tmp_path / "adapter", **KINDS[kind])
    write_gguf(base, tmp_path / "m.gguf", "f32")
    write_adapter(tmp_path / "adapter", config_of(base), tmp_path / "a.gguf")
    prompt = [5, 60, 7, 200, 11, 12]
    plain = ask_llama_cpp(tmp_path / "m.gguf", [prompt], [], 8)["continuations"][0]
    answer = ask_llama_cpp(tmp_path / "m.gguf", [prompt], [], 8, adapter=tmp_path / "a.gguf")["continuations"][0]
    assert answer != plain
    tokens = [token for token, _ in answer]
    with torch.inference_mode():
        table = torch.log_softmax(model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1], -1)
    assert table.argmax(-1).tolist() == tokens
    for row, (token, logprob) in zip(table, answer, strict=True):
        assert logprob is None or abs(float(row[token]) - logprob) < 1e-3
