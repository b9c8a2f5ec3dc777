"""What quantisation means on a device, and which quantised checkpoints can be loaded here."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.models.cpu_linear import Int4Linear, Int8Linear
from src.models.load import load_for_generation, load_model
from src.models.placement import Allocation, model_on_meta, parts_of, place
from src.models.quantized import check_checkpoint, check_quantization, compute_dtype, layer_bits, quantized_settings
from src.models.spec import ModelSpec
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder

# eighty words of our own, and their tokens as SmolLM2 has them
TEXT = """The harbour was quiet before dawn. Two boats lay at the wall, and a man with a lantern walked slowly along the
stones, counting the ropes. When the bell of the church rang five, he stopped, looked at the sky in the east and said
that the wind would turn before noon. Nobody answered him, because nobody else was awake. The bakery lit its ovens, a
cat crossed the square, and the first fisherman came down the steps with his nets over his shoulder."""


@pytest.mark.parametrize(("given", "name"), [(None, "none"), ("none", "none"), ("8bit", "8bit"), ("4bit", "4bit")])
def test_a_way_to_quantise_has_a_name(given, name):
    assert check_quantization(given, "cpu") == name


@pytest.mark.parametrize(("name", "device", "words"), [("int8", "cpu", "not known"), ("8bit", "mps", "x86 CPU")])
def test_what_does_not_work_is_refused(name, device, words):
    with pytest.raises(UserError, match=words):
        check_quantization(name, device)


def test_8_bit_products_on_a_cpu_are_fastest_between_float32_layers():
    assert compute_dtype("8bit", "cpu") == "float32"
    assert compute_dtype("4bit", "cpu") is compute_dtype("8bit", "cuda") is compute_dtype("none", "cpu") is None


def test_bits_of_checkpoints_are_read_from_their_configs():
    assert layer_bits("none", True, {"quant_method": "gptq", "bits": 4, "group_size": 128}) == 4 + 20 / 128
    assert layer_bits("none", True, {"quant_method": "bitsandbytes", "load_in_8bit": True}) == 8
    assert layer_bits("none", True, None) is None


@pytest.mark.parametrize(("method", "package"), [("gptq", "gptqmodel"), ("awq", "gptqmodel")])
def test_a_checkpoint_whose_package_is_missing_names_it(method, package, smollm2_dir: Path, tmp_path: Path):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    for file in smollm2_dir.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((smollm2_dir / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=rf"is quantised by {method} \(4 bits\).*pip install .*{package}"):
        load_for_generation(ModelSpec(path=str(tmp_path)))


def test_a_quantised_checkpoint_is_not_quantised_again():
    with pytest.raises(UserError, match="quantised already by gptq"):
        check_checkpoint({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "m", "8bit")


def test_random_weights_are_not_quantised(llama_tiny: ModelSpec):
    with pytest.raises(UserError, match="random weights"):
        load_for_generation(llama_tiny, quantization="8bit")


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_are_quantised_while_they_are_read_and_the_estimate_knows_their_size(tiny_spec: ModelSpec, bits: int):
    model, _ = load_for_generation(tiny_spec, quantization=f"{bits}bit")
    plain = load_model(tiny_spec)
    kind = Int8Linear if bits == 8 else Int4Linear
    assert type(model.model.layers[1].mlp.down_proj) is kind and type(model.lm_head) is Int8Linear
    assert type(model.model.embed_tokens) is torch.nn.Embedding
    placement = place(tiny_spec, Allocation(context=8), "float32", f"{bits}bit")
    linear = sum(p.numel() for n, p in plain.named_parameters() if "_proj" in n)
    head, rest = plain.lm_head.weight.numel(), sum(p.numel() for n, p in plain.named_parameters() if "_proj" not in n)
    weights = linear * (8 if bits == 8 else 5) / 8 + head + 4 * (rest - head)
    inverse_frequencies = 4 * plain.config.head_dim  # two buffers of half a head's size
    assert placement.shares[0].weights == pytest.approx(weights + inverse_frequencies, abs=64)


def test_a_model_without_linear_layers_is_not_quantised_in_silence(tmp_path: Path):
    folder = write_decoder(tmp_path / "gpt2", write_byte_tokenizer(tmp_path / "t"), "GPT2Config")
    with pytest.raises(UserError, match="quantization=8bit finds no matrix in GPT2LMHeadModel that it can take"):
        load_for_generation(ModelSpec(path=str(folder)), quantization="8bit")


def test_matrices_that_do_not_fit_4_bits_stay_and_are_counted(tmp_path: Path, caplog):
    folder = write_decoder(tmp_path / "m", write_byte_tokenizer(tmp_path / "t"), intermediate_size=100)
    spec = ModelSpec(path=str(folder))
    model, _ = load_for_generation(spec, quantization="4bit")
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert type(model.model.layers[0].self_attn.q_proj) is Int4Linear
    assert "leaves 61 % of the layers' weights as they are" in caplog.text  # 3 * 100 of 3 * 100 + 192 columns
    placement = place(spec, Allocation(context=8), "float32", "4bit")
    layer = 64 * (192 * 5 / 8 + 3 * 100 * 4) + 2 * 64 * 4
    assert placement.shares[0].parts[1].weights == layer


@pytest.mark.slow
def test_the_estimate_knows_what_bitsandbytes_makes_of_a_model(smollm2: ModelSpec):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    from src.models.download import resolve

    for name in ("8bit", "4bit"):
        settings = quantized_settings(name, torch.bfloat16, on_cpu=False)
        model = AutoModelForCausalLM.from_pretrained(
            resolve(smollm2), dtype=torch.bfloat16, device_map={"": "cpu"}, **settings
        )
        parts = parts_of(model_on_meta(smollm2), "bfloat16", name, tokens=0, on_cpu=False)
        assert sum(part.weights for part in parts) == pytest.approx(model.get_memory_footprint(), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "dtype"), [("8bit", "float32"), ("4bit", "bfloat16")])
def test_a_quantised_model_expects_the_same_tokens(smollm2: ModelSpec, quantization: str, dtype: str):
    plain, tokenizer = load_for_generation(smollm2)
    small, _ = load_for_generation(smollm2, dtype=dtype, quantization=quantization)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        expected, found = (model(ids).logits[0].float().log_softmax(dim=-1) for model in (plain, small))
    divergence = (expected.exp() * (expected - found)).sum(dim=-1).mean()
    agree = (expected.argmax(dim=-1) == found.argmax(dim=-1)).float().mean()
    assert ids.shape[1] > 90 and divergence < 0.02 and agree > 0.88


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_an_adapter_works_on_a_quantised_model(smollm2: ModelSpec, quantization: str, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(smollm2), config)
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)
    small, tokenizer = load_for_generation(smollm2, tmp_path, quantization=quantization)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids[:, :40]
    with torch.no_grad():
        expected, found = adapted.eval()(ids).logits[0], small(ids).logits[0]
        plain = load_model(smollm2).eval()(ids).logits[0]
    distance = (found - expected).norm()
    assert distance < 0.5 * (plain - expected).norm()
