"""A GGUF file of a tiny Llama, written the way llama.cpp's converter does, and the weights it was made from."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from src.models.spec import ModelSpec

HEADS, KEY_VALUE_HEADS = 4, 2


@dataclass
class TinyGguf:
    file: Path
    model: LlamaForCausalLM
    other_tokenizer: Path  # the same model with a tokenizer only transformers can convert


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> TinyGguf:
    """Float32 norms, float16 embeddings, the rest 8-bit (Q8_0): the mix real files have."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_alphabet(), "Ġt", "he", "Ġthe", "ĠĠ"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)  # so that logits depend on every part
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    _write(file, model, tokens, "smollm")
    other = file.with_name("other.gguf")
    _write(other, model, tokens, "llama-bpe")
    return TinyGguf(file, model, other)


@pytest.fixture
def tiny_spec(tiny_gguf: TinyGguf, tmp_path: Path) -> ModelSpec:
    return ModelSpec(path=str(tiny_gguf.file), cache_dir=str(tmp_path / "cache"))


def _write(file: Path, model: LlamaForCausalLM, tokens: list[str], pre_tokenizer: str) -> None:
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t", "h e", "Ġt he", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleave(values, HEADS if "q_proj" in name else KEY_VALUE_HEADS)
        target = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        if values.ndim == 1:
            writer.add_tensor(target, values)
        elif "embed" in name:
            writer.add_tensor(target, values.astype(np.float16))
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(weights: np.ndarray, heads: int) -> np.ndarray:
    """Hugging Face's two halves of a head to llama.cpp's neighbouring pairs."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns).copy()


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index in range(256 - len(kept))]
