"""Models and tokenizers load with the dtype, weights and adapter asked for."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from src.errors import UserError
from src.models.load import load_for_generation, load_model, load_tokenizer
from src.models.spec import ModelSpec

INPUT_IDS = torch.tensor([[5, 60, 7, 200, 11, 12]])


def save_adapter(spec: ModelSpec, folder: Path) -> Path:
    """An adapter that changes the logits: LoRA's B matrices start at zero."""
    model = get_peft_model(load_model(spec), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def test_weights_are_loaded_in_the_dtype_asked_for(tiny_spec: ModelSpec) -> None:
    assert load_model(tiny_spec).dtype == torch.float32
    assert load_model(tiny_spec, dtype="bfloat16").dtype == torch.bfloat16


def test_from_scratch_has_the_shape_but_not_the_weights(tiny_spec: ModelSpec) -> None:
    trained, fresh = load_model(tiny_spec).state_dict(), load_model(tiny_spec, from_scratch=True).state_dict()
    assert {name: value.shape for name, value in trained.items()} == {n: value.shape for n, value in fresh.items()}
    assert not torch.equal(trained["model.layers.0.mlp.down_proj.weight"], fresh["model.layers.0.mlp.down_proj.weight"])


def test_random_weights_follow_the_seed(tiny_spec: ModelSpec) -> None:
    logits = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        logits.append(load_model(tiny_spec, from_scratch=True)(INPUT_IDS).logits)
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_the_cache_setting_of_a_checkpoint_is_kept_for_training_and_on_for_generation(tiny_spec: ModelSpec) -> None:
    folder = Path(load_model(tiny_spec).config._name_or_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_cache": False}))
    assert load_model(tiny_spec).config.use_cache is False
    model, tokenizer = load_for_generation(tiny_spec)
    assert model.config.use_cache is True and not model.training and tokenizer.padding_side == "left"


def test_a_tokenizer_without_a_pad_token_pads_with_its_unknown_token(tiny_spec: ModelSpec) -> None:
    folder = Path(load_model(tiny_spec).config._name_or_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tiny_spec).pad_token == "<|endoftext|>"


def test_an_unknown_dtype_is_refused(tiny_spec: ModelSpec) -> None:
    with pytest.raises(UserError, match="dtype 'fp32' is not known: expected one of float32, bfloat16, float16"):
        load_model(tiny_spec, dtype="fp32")


def test_an_adapter_changes_what_the_model_says(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_spec, tmp_path / "adapter")
    plain, _ = load_for_generation(tiny_spec)
    adapted, _ = load_for_generation(tiny_spec, adapter_path=adapter)
    assert not torch.allclose(plain(INPUT_IDS).logits, adapted(INPUT_IDS).logits, atol=1e-3)


def test_a_folder_that_is_no_adapter_is_refused(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a PEFT folder: expected adapter_config\.json"):
        load_for_generation(tiny_spec, adapter_path=tmp_path)


def test_an_adapter_of_another_model_is_refused(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_spec, tmp_path / "adapter")
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 8}
    other = ModelSpec(
        name="other", config=config, tokenizer=tiny_spec.path, context_length=64, cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(UserError, match=r"does not fit model .*it was made for"):
        load_for_generation(other, adapter_path=adapter)


@pytest.mark.slow
def test_llama_tiny_and_its_parameter_count_are_as_the_zoo_says(llama_tiny: ModelSpec) -> None:
    model = load_model(llama_tiny)
    assert sum(parameter.numel() for parameter in model.parameters()) == llama_tiny.parameters
    assert model.config.tie_word_embeddings and model.config.max_position_embeddings == llama_tiny.context_length


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2_dir: Path) -> None:
    spec = ModelSpec(path=str(smollm2_dir))
    model, tokenizer = load_for_generation(spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters == 134_515_008
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"
