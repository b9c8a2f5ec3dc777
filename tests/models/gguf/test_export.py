"""A GGUF file holds the model it was written from, and is made once."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from src.errors import UserError
from src.models.gguf.convert import convert
from src.models.gguf.export import gguf_file, lossless_type, stored_type, write_gguf
from src.models.gguf.quantize import open_gguf
from src.models.gguf.verify import verify_gguf
from src.models.spec import ModelSpec
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return write_decoder(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture
def spec(folder: Path, tmp_path: Path) -> ModelSpec:
    return ModelSpec(path=str(folder), name="tiny", cache_dir=str(tmp_path / "cache"))


def test_the_reader_of_gguf_files_gives_the_model_back(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "m.gguf", "f32")
    (tmp_path / "back").mkdir()
    convert(tmp_path / "m.gguf", tmp_path / "back")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    for key in ("hidden_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_parameters", "vocab_size"):
        assert old[key] == new[key]
    assert new["tie_word_embeddings"] is False


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept_as_it_is(tokenizer: Path, tmp_path: Path, dtype: str) -> None:
    folder = write_decoder(tmp_path / "m", tokenizer, dtype=dtype)
    file_type = {"float16": "f16", "bfloat16": "bf16"}[dtype]
    assert lossless_type(folder) == file_type
    write_gguf(folder, tmp_path / "m.gguf", file_type)
    weights = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    tensor = next(one for one in open_gguf(tmp_path / "m.gguf").tensors if one.name == "blk.0.ffn_down.weight")
    assert np.array_equal(
        tensor.data.view(np.uint16).ravel(), weights.view(torch.int16).numpy().view(np.uint16).ravel()
    )


def test_shards_and_pickles_give_the_same_file(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in ("sharded", "pickled"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pickled" / "pytorch_model.bin")
    names = sorted(tensors)
    for number, part in enumerate((names[:9], names[9:]), 1):
        save_file({name: tensors[name] for name in part}, tmp_path / "sharded" / f"model-{number}.safetensors")
    places = {name: f"model-{1 if name in names[:9] else 2}.safetensors" for name in names}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    contents = []
    for source in (folder, tmp_path / "sharded", tmp_path / "pickled"):
        write_gguf(source, tmp_path / "m.gguf", "q8_0")
        contents.append({one.name: bytes(one.data) for one in open_gguf(tmp_path / "m.gguf").tensors})
    assert contents[0] == contents[1] == contents[2]


def test_tied_embeddings_are_written_once(tokenizer: Path, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "m", tokenizer, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    write_gguf(folder, tmp_path / "m.gguf", "f16")
    assert "output.weight" not in {tensor.name for tensor in open_gguf(tmp_path / "m.gguf").tensors}


def with_own_head(folder: Path) -> torch.Tensor:
    """Another head beside the embedding of a model whose config says that they are one."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors["lm_head.weight"]


def test_a_head_that_differs_from_the_embedding_counts_as_it_does_for_transformers(
    tokenizer: Path, tmp_path: Path
) -> None:
    folder = write_decoder(tmp_path / "m", tokenizer, tie_word_embeddings=True)
    head = with_own_head(folder)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder).lm_head.weight, head)
    write_gguf(folder, tmp_path / "m.gguf", "f32")
    written = {tensor.name: tensor.data for tensor in open_gguf(tmp_path / "m.gguf").tensors}
    assert np.array_equal(written["output.weight"], head.numpy())
    verify_gguf(tmp_path / "m.gguf", folder, "f32", numbers=False)
    gemma = write_decoder(tmp_path / "gemma", tokenizer, "GemmaConfig", head_dim=32)
    write_gguf(gemma, tmp_path / "gemma.gguf", "f32")
    with_own_head(gemma)
    with pytest.raises(UserError, match="has a head of its own"):
        write_gguf(gemma, tmp_path / "gemma.gguf", "f32")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.norm.weight", "lack output_norm.weight"),
        ("model.layers.1.mlp.up_proj.weight", "lack tensors of some of its blocks"),
        ("lm_head.weight", "lack output.weight"),
    ],
)
def test_a_folder_that_lacks_a_tensor_is_refused(folder: Path, tmp_path: Path, lost: str, message: str) -> None:
    shutil.copytree(folder, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(UserError, match=message):
        write_gguf(tmp_path / "m", tmp_path / "m.gguf")


def test_a_file_is_made_once(spec: ModelSpec) -> None:
    first = gguf_file(spec, "q8_0")
    written = first.stat().st_mtime_ns
    assert gguf_file(spec, "q8_0") == first and first.stat().st_mtime_ns == written
    assert gguf_file(spec, "f16") != first
    assert stored_type(first) == "q8_0"


def test_a_changed_model_gets_another_file(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    spec = ModelSpec(path=str(tmp_path / "m"), cache_dir=str(tmp_path / "cache"))
    first = gguf_file(spec)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    save_file({name: value * 2 for name, value in tensors.items()}, tmp_path / "m" / "model.safetensors")
    assert gguf_file(spec) != first


def test_a_gguf_file_of_the_user_is_used_where_it_is(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "mine.gguf", "q5_1")
    spec = ModelSpec(path=str(tmp_path / "mine.gguf"), cache_dir=str(tmp_path / "cache"))
    assert gguf_file(spec, "as_is") == gguf_file(spec, "q5_1") == tmp_path / "mine.gguf"
    assert not (tmp_path / "cache").exists()
    other = gguf_file(spec, "q8_0")
    assert stored_type(other) == "q8_0" and other.is_relative_to(tmp_path / "cache")


def test_what_cannot_be_a_gguf_file_is_a_sentence(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no \.gguf file: give one of f32"):
        gguf_file(spec, "as_is")
    random = ModelSpec(name="random", config={}, tokenizer="smollm2_135m", cache_dir=str(tmp_path))
    with pytest.raises(UserError, match="has random weights"):
        gguf_file(random)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 20)
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        gguf_file(ModelSpec(path=str(tmp_path / "bad.gguf"), cache_dir=str(tmp_path)))


def test_the_type_is_found_behind_arrays_of_strings(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list(["a", "bc", ""])
    writer.add_token_types([1, 2, 3])
    writer.add_bool("general.flag", True)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q5_0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert stored_type(tmp_path / "m.gguf") == "q5_0"


ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
DECODERS = {
    "llama": ("LlamaConfig", {}),
    "llama_with_biases": ("LlamaConfig", {"attention_bias": True, "head_dim": 32, "tie_word_embeddings": True}),
    "llama3": ("LlamaConfig", {"rope_parameters": {**ROPE, "original_max_position_embeddings": 64}}),
    "linear": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "yarn": ("LlamaConfig", {"rope_parameters": YARN}),
    "yarn_with_scales": ("LlamaConfig", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}),
    "yarn_with_a_factor": ("LlamaConfig", {"rope_parameters": {**YARN, "attention_factor": 1.5}}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "gemma": ("GemmaConfig", {"head_dim": 32}),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "num_hidden_layers": 7},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_llama_cpp_computes_what_transformers_does(name: str, tokenizer: Path, tmp_path: Path) -> None:
    config_class, settings = DECODERS[name]
    folder = write_decoder(tmp_path / name, tokenizer, config_class, **settings)
    write_gguf(folder, tmp_path / "m.gguf", "f32")
    found = verify_gguf(tmp_path / "m.gguf", folder, "f32")
    assert found.fidelity is not None and found.fidelity.kl < 1e-6 and found.fidelity.top1 == 1.0
    assert found.llama_cpp is not None and found.llama_cpp.gap < 2e-3
    assert found.llama_cpp.agreed == found.llama_cpp.tokens > 40
