"""GGUF to Hugging Face folder, once, without changing a value.

GGUF is llama.cpp's single-file format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Quantised tensors are
written as float32: a 4-bit value times a half-precision scale plus a half-precision minimum needs more mantissa than
bfloat16 has, and a rounded copy would give other logits than the file. Half-precision tensors stay half.

Llama files are read here, tensor by tensor, into the layout of Hugging Face's checkpoints; this needs no torch and a
third of the time of transformers' own reader, with equal logits. Files of other architectures, and tokenizers other
than SmolLM's, go through transformers.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.models.gguf.architecture import to_halves

logger = logging.getLogger(__name__)

CONVERTER_VERSION = 2  # part of the cache key: raise it when the folder this module writes changes
SHARD_BYTES = 4 * 2**30

LLAMA_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
CONTROL_TOKEN = 3


def convert(gguf_file: Path, folder: Path) -> None:
    """Write config, generation config, tokenizer and safetensors of a GGUF file into an existing empty folder.

    Raises `UserError` for a file that is not a readable GGUF model.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(gguf_file)
        architecture = reader.fields["general.architecture"].contents()
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{gguf_file}' cannot be read as GGUF ({error}): expected a complete model file as llama.cpp writes it, "
            "so download it again"
        ) from error
    if architecture == "llama" and not _unusual(reader):
        config = llama_config(reader)
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", _generation_config(config))
        write_tensors(llama_tensors(reader, config), folder)
    else:
        _convert_with_transformers(gguf_file, folder)
    if metadata(reader, "tokenizer.ggml.pre") == "smollm":
        write_smollm_tokenizer(reader, folder)
    else:
        _convert_tokenizer_with_transformers(gguf_file, folder)


def metadata(reader: Any, key: str, default: Any = None) -> Any:
    """One metadata value of an open GGUF file as a Python object."""
    return reader.fields[key].contents() if key in reader.fields else default


def _unusual(reader: Any) -> bool:
    """Whether a Llama file has parts beyond the plain decoder: experts, biases, scaled rotary frequencies."""
    plain = {f"{name}.weight" for name in LLAMA_TENSORS}
    extra = {tensor.name for tensor in reader.tensors if tensor.name.split(".", 2)[-1] not in plain | {"weight"}}
    extra |= {key for key in reader.fields if key.startswith(("llama.rope.scaling.", "llama.expert"))}
    if any("rope" in name for name in extra):
        logger.warning("this GGUF file scales its rotary frequencies, which the conversion may lose on long contexts")
    return bool(extra)


def llama_config(reader: Any) -> dict[str, Any]:
    """The ``config.json`` of a GGUF Llama file."""
    heads = metadata(reader, "llama.attention.head_count")
    hidden = metadata(reader, "llama.embedding_length")
    theta = metadata(reader, "llama.rope.freq_base", 10000.0)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "hidden_size": hidden,
        "intermediate_size": metadata(reader, "llama.feed_forward_length"),
        "num_hidden_layers": metadata(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata(reader, "llama.attention.head_count_kv", heads),
        "head_dim": metadata(reader, "llama.attention.key_length", hidden // heads),
        "hidden_act": "silu",
        "max_position_embeddings": metadata(reader, "llama.context_length"),
        # stored as float32: 9.999999747378752e-06 stands for 1e-05
        "rms_norm_eps": float(f"{metadata(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_theta": theta,  # for readers that know transformers 4 only
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": metadata(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata(reader, "tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
        "use_cache": True,
    }


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config[key] is not None}


def llama_tensors(reader: Any, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Hugging Face name and value of each tensor, ``[out_features, in_features]``, dequantised one at a time."""
    from gguf import GGMLQuantizationType, dequantize

    for tensor in reader.tensors:
        *block, name, _ = tensor.name.split(".")
        weights = tensor.data if tensor.tensor_type == GGMLQuantizationType.F16 else None
        if weights is None:
            weights = dequantize(tensor.data, tensor.tensor_type)
        if name in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if name == "attn_q" else "num_key_value_heads"]
            weights = to_halves(weights, heads)
        prefix = f"model.layers.{block[1]}." if block else ""
        yield f"{prefix}{LLAMA_TENSORS[name]}.weight", np.ascontiguousarray(weights)


def write_tensors(tensors: Iterator[tuple[str, np.ndarray]], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as safetensors, in several files and an index once they pass `shard_bytes`."""
    from safetensors.numpy import save_file

    shards: list[dict[str, np.ndarray]] = [{}]
    weight_map: dict[str, str] = {}
    size = total = 0

    def flush(file_name: str) -> None:
        save_file(shards[0], folder / file_name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shards[0], file_name))
        shards[0] = {}

    for name, values in tensors:
        if shards[0] and size + values.nbytes > shard_bytes:
            flush(f"model-{len(set(weight_map.values())) + 1:05d}.safetensors")
            size = 0
        shards[0][name] = values
        size += values.nbytes
        total += values.nbytes
    if not weight_map:
        flush("model.safetensors")
    else:
        flush(f"model-{len(set(weight_map.values())) + 1:05d}.safetensors")
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )


def write_smollm_tokenizer(reader: Any, folder: Path) -> None:
    """Write SmolLM's tokenizer: byte-level BPE that cuts numbers into digits first.

    The cut matters although no token holds two digits: without it the space before a number is taken from the run of
    spaces before it, and ``"x =  1"`` gets other tokens than the model was trained on. transformers' GGUF reader leaves
    it out.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = metadata(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata(reader, "tokenizer.ggml.merges")]
    kinds = metadata(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {role: metadata(reader, f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    write_json(
        folder / "tokenizer_config.json",
        {
            # the class that takes tokenizer.json as it is; GPT2Tokenizer would build its own pre-tokenizer
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{role}_token": tokens[index] for role, index in ids.items() if index is not None},
            "add_bos_token": bool(metadata(reader, "tokenizer.ggml.add_bos_token", False)),
            "model_max_length": metadata(reader, "llama.context_length"),
            "clean_up_tokenization_spaces": False,
            "chat_template": metadata(reader, "tokenizer.chat_template"),
        },
    )


def _convert_with_transformers(gguf_file: Path, folder: Path) -> None:
    """Config and weights of any architecture transformers can read."""
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent,
            gguf_file=gguf_file.name,
            dtype="float32",
            quantization_config=GgufConfig(dequantize=True),  # without it the model refuses save_pretrained
        )
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"'{gguf_file}' cannot be converted: {error}") from error
    model.save_pretrained(folder)


def _convert_tokenizer_with_transformers(gguf_file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).save_pretrained(folder)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file as Hugging Face folders have them."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
