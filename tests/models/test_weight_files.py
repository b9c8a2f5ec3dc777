"""Tensors come out of a folder bit for bit, one at a time, and safetensors reads what is written here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from src.errors import UserError
from src.models.weight_files import TensorFiles, WeightFiles, as_float32, from_float32, write_safetensors

UNSIGNED = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict[str, tuple[str, np.ndarray]]:
    names = draw(st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=4))
    names = [name for name in names if name != "__metadata__"] or ["x"]
    kinds = [draw(st.sampled_from(sorted(UNSIGNED))) for _ in names]
    return {name: (kind, draw(arrays.arrays(UNSIGNED[kind], SHAPES))) for name, kind in zip(names, kinds, strict=True)}


@settings(max_examples=60, deadline=None)
@given(tensors=tensor_sets())
def test_what_is_written_is_read_again_here_and_by_safetensors(tmp_path_factory, tensors) -> None:
    file = tmp_path_factory.mktemp("written") / "model.safetensors"
    header = [(name, kind, values.shape) for name, (kind, values) in tensors.items()]
    write_safetensors(file, header, (values for _, values in tensors.values()))
    ours = TensorFiles(file)
    assert list(ours.tensors) == list(tensors)
    with safe_open(file, "np") as theirs:
        for name, (_, values) in tensors.items():
            assert np.array_equal(ours.read(name), values) and ours.read(name).shape == values.shape
            assert np.array_equal(theirs.get_tensor(name), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_a_pickle_and_safetensors_give_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a.weight": torch.arange(12).reshape(4, 3).to(dtype), "b.bias": torch.ones(2).to(dtype)}
    (tmp_path / "s").mkdir()
    (tmp_path / "p").mkdir()
    save_file(tensors, tmp_path / "s" / "model.safetensors")
    torch.save(tensors, tmp_path / "p" / "pytorch_model.bin")
    one, other = WeightFiles(tmp_path / "s"), WeightFiles(tmp_path / "p")
    for name in tensors:
        assert one.tensors[name].dtype == other.tensors[name].dtype
        assert np.array_equal(one.read(name), other.read(name))
        assert np.array_equal(one.read(name, slice(1, 2)), other.read(name)[1:2])


def test_rows_of_several_shards_are_found(tmp_path: Path) -> None:
    save_file({"a": torch.arange(20.0).reshape(5, 4)}, tmp_path / "model-00001.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "model-00002.safetensors")
    index = {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = WeightFiles(tmp_path)
    assert list(weights.tensors) == ["a", "b"] and weights.nbytes == 92
    assert as_float32(weights.read("a", slice(3, None)), "F32").tolist() == [[12, 13, 14, 15], [16, 17, 18, 19]]
    (tmp_path / "model-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-00002\.safetensors"):
        WeightFiles(tmp_path)


def test_of_one_file_and_an_index_the_file_is_read_as_transformers_does(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    shard = "model-00001-of-00001.safetensors"
    other = {name: torch.zeros_like(value) for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(other, tmp_path / shard, metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(other, shard)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).lm_head.weight.detach().numpy()
    assert theirs.any()
    assert np.array_equal(as_float32(WeightFiles(tmp_path).read("lm_head.weight"), "F32"), theirs)


@given(bits=arrays.arrays(np.uint16, 50))
def test_sixteen_bits_survive_the_way_through_float32(bits: np.ndarray) -> None:
    for dtype in ("F16", "BF16"):
        values = as_float32(bits, dtype)
        numbers = ~np.isnan(values)
        assert np.array_equal(from_float32(values, dtype)[numbers], bits[numbers])


@given(values=arrays.arrays(np.float32, 50))
def test_rounding_to_bfloat16_is_torchs(values: np.ndarray) -> None:
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    ours = torch.from_numpy(from_float32(values, "BF16").view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(0.0), theirs.nan_to_num(0.0))


def test_a_folder_without_weights_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no weights: expected model\.safetensors"):
        WeightFiles(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, kept: int) -> None:
    save_file({"a": torch.ones(64)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:kept])
    with pytest.raises(UserError, match="copy or download it again"):
        WeightFiles(tmp_path)


def test_a_damaged_pickle_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match="cannot be read"):
        WeightFiles(tmp_path)
