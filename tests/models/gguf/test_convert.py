"""A converted GGUF file holds the file's values, and its tokenizer the file's text."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from src.errors import UserError
from src.models.gguf.convert import convert, write_tensors

SAMPLES = [
    "你好，世界！今天天气不错。",
    "😀 👍🏽 🇺🇸 ❤️",
    "def f(x):\n    return  x ** 2\n\n\tif x ==  10:\r\n",
    "  spaces before , after  .",
    "it 's 1998 and <|im_end|> is text",
]
# SmolLM2's vocabulary has no token for the bytes of these control characters, nor of planes 4 to 11 of Unicode
NOT_IN_VOCABULARY = "\x04\x06\x13\x14\x16\x1d"


@pytest.fixture(scope="module")
def converted(tiny_gguf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert(tiny_gguf.file, folder)
    return folder


def test_every_value_of_the_file_is_kept(tiny_gguf, converted: Path) -> None:
    stored = load_file(converted / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_gguf.file).tensors}
    down = tensors["blk.1.ffn_down.weight"]
    assert np.array_equal(stored["model.layers.1.mlp.down_proj.weight"], gguf.dequantize(down.data, down.tensor_type))
    assert stored["model.embed_tokens.weight"].dtype == np.float16
    assert np.array_equal(stored["model.embed_tokens.weight"], tensors["token_embd.weight"].data)
    assert set(stored) == set(tiny_gguf.model.state_dict())


def test_the_converted_model_gives_the_logits_of_transformers_own_reader(tiny_gguf, converted: Path) -> None:
    input_ids = torch.tensor([[5, 60, 7, 200, 11, 12]])
    ours = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)(input_ids).logits
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny_gguf.file.parent,
        gguf_file=tiny_gguf.file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )(input_ids).logits
    assert torch.equal(ours, theirs)
    original = tiny_gguf.model(input_ids).logits
    assert torch.nn.functional.cosine_similarity(ours, original, dim=-1).min() > 0.95  # 8 bits away, not another model


def test_a_large_model_is_written_as_shards_with_an_index(tiny_gguf, converted: Path, tmp_path: Path) -> None:
    tensors = load_file(converted / "model.safetensors")
    write_tensors(iter(tensors.items()), tmp_path, shard_bytes=100_000)
    (tmp_path / "config.json").write_bytes((converted / "config.json").read_bytes())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    whole = AutoModelForCausalLM.from_pretrained(converted).state_dict()
    sharded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04 not a model", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_damaged_file_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        convert(tmp_path / "bad.gguf", tmp_path)


def test_a_truncated_file_is_a_sentence(tiny_gguf, tmp_path: Path) -> None:
    content = tiny_gguf.file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        convert(tmp_path / "cut.gguf", tmp_path)


def test_numbers_are_cut_into_digits_before_spaces_are_merged(converted: Path) -> None:
    tokens = Tokenizer.from_file(str(converted / "tokenizer.json")).encode("the  12").tokens
    assert tokens == ["t", "he", "ĠĠ", "1", "2"]  # transformers' reader gives Ġ Ġ 1 2


def test_what_is_not_read_here_goes_through_transformers(
    tiny_gguf, converted: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("src.models.gguf.convert._unusual", lambda reader: True)
    convert(tiny_gguf.other_tokenizer, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(value, whole[name]) for name, value in theirs.state_dict().items())
    assert not hasattr(theirs.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer("the  12 你好")["input_ids"]) == "the  12 你好"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2) and tokenizer.chat_template


@pytest.mark.slow
class TestSmolLM2:
    @pytest.fixture(scope="class")
    def tokenizer(self, smollm2_dir: Path):
        return AutoTokenizer.from_pretrained(smollm2_dir)

    @pytest.mark.parametrize("text", SAMPLES)
    def test_tokens_decode_to_the_same_text(self, tokenizer, text: str) -> None:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    @settings(max_examples=200, deadline=None)
    @given(text=st.text(st.characters(codec="utf-8", max_codepoint=0x3FFFF, exclude_characters=NOT_IN_VOCABULARY)))
    def test_any_text_survives_the_round_trip(self, smollm2_dir: Path, text: str) -> None:
        tokenizer = _cached_tokenizer(smollm2_dir)
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text

    def test_special_tokens_are_those_it_was_trained_with(self, tokenizer) -> None:
        ids = (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        assert ids == (0, 1, 2, 2)
        assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        assert len(tokenizer) == 49152

    def test_nothing_is_added_to_a_text(self, tokenizer) -> None:
        assert tokenizer("hello world")["input_ids"] == tokenizer("hello world", add_special_tokens=False)["input_ids"]

    def test_the_chat_template_opens_with_the_default_system_message(self, tokenizer) -> None:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")

    def test_the_folder_says_nothing_of_quantisation(self, smollm2_dir: Path) -> None:
        config = json.loads((smollm2_dir / "config.json").read_text())
        assert "quantization_config" not in config and config["dtype"] == "float32"
        assert config["rope_parameters"]["rope_theta"] == 100000.0 and config["rms_norm_eps"] == 1e-5


def _cached_tokenizer(folder: Path, known: dict[Path, Tokenizer] = {}) -> Tokenizer:  # noqa: B006
    if folder not in known:
        known[folder] = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return known[folder]
