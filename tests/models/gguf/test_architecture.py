"""Rows, norms and rotary factors as llama.cpp wants them; what it would compute otherwise is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from src.errors import UserError
from src.models.gguf.architecture import (
    Decoder,
    NotWrittenHereError,
    llama3_factors,
    to_halves,
    to_pairs,
    yarn_attention,
)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "intermediate_size": 96,
}
GEMMA2 = {"architectures": ["Gemma2ForCausalLM"]}


def decoder(**settings) -> Decoder:
    return Decoder({**CONFIG, **settings}, "here")


@given(heads=st.integers(1, 4), half=st.integers(1, 4), columns=st.integers(0, 3), data=st.data())
def test_pairs_and_halves_undo_each_other(heads: int, half: int, columns: int, data: st.DataObject) -> None:
    shape = (heads * half * 2, columns) if columns else (heads * half * 2,)  # a bias is a vector
    rows = np.arange(np.prod(shape)).reshape(shape)
    assert np.array_equal(to_halves(to_pairs(rows, heads), heads), rows)
    assert np.array_equal(to_pairs(to_halves(rows, heads), heads), rows)


def test_rows_that_rotate_together_lie_side_by_side() -> None:
    assert to_pairs(np.arange(8), heads=2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_only_llamas_query_and_key_are_paired() -> None:
    values = np.arange(64)
    assert not np.array_equal(decoder().arrange("model.layers.0.self_attn.q_proj.weight", values), values)
    assert np.array_equal(decoder().arrange("model.layers.0.self_attn.v_proj.weight", values), values)
    qwen = decoder(architectures=["Qwen2ForCausalLM"])
    assert np.array_equal(qwen.arrange("model.layers.0.self_attn.q_proj.weight", values), values)


def test_gemmas_norms_become_factors_and_back() -> None:
    gemma, norm = decoder(architectures=["GemmaForCausalLM"]), np.array([0.0, -0.5], np.float32)
    factors = gemma.arrange("model.norm.weight", norm)
    assert factors.tolist() == [1.0, 0.5]
    assert gemma.arrange_back("model.norm.weight", factors).tolist() == norm.tolist()


def test_llama3_factors_are_transformers() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2).float() / 128)
    np.testing.assert_allclose(plain / scaled, llama3_factors(rope, 128), rtol=1e-5)


def test_old_configs_say_their_rotary_settings_too() -> None:
    old = decoder(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    new = decoder(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
    assert old._rope() | {"type": "linear"} == new._rope() | {"type": "linear"}


@pytest.mark.parametrize(
    "rope", [{}, {"attention_factor": 1.3}, {"mscale": 1.0, "mscale_all_dim": 0.5}, {"mscale": 0.7}]
)
def test_yarn_scales_attention_as_transformers_does(rope: dict) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64, **rope}
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=dict(rope))
    _, theirs = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    assert yarn_attention(rope, 4.0) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "architecture MixtralForCausalLM of 'here' is none of"),
        ({"hidden_size": None}, "has hidden_size=None: expected a whole number"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantised by gptq"),
        ({"hidden_act": "relu"}, "hidden_act=relu: llama.cpp computes silu"),
        ({"architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu"}, "computes gelu_pytorch_tanh"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate=false"),
        ({**GEMMA2, "query_pre_attn_scalar": 7}, "query_pre_attn_scalar=7"),
        ({**GEMMA2, "query_pre_attn_scalar": 16}, "query_pre_attn_scalar=16: llama.cpp takes 256"),
        ({**GEMMA2, "num_hidden_layers": 46}, "query_pre_attn_scalar=256: llama.cpp takes 16 for gemma2 of 46 layers"),
        ({**GEMMA2, "attn_logit_softcapping": None}, "attn_logit_softcapping=None"),
        ({"architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": 50.0}, "does not cap attention in gemma3"),
        ({**GEMMA2, "layer_types": ["full_attention"] * 2}, "pattern of sliding attention"),
        (
            {"architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 2},
            "pattern of sliding attention",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decoder(**settings)


def test_a_tensor_that_a_plain_decoder_lacks_is_named() -> None:
    with pytest.raises(NotWrittenHereError, match=r"holds a tensor model\.layers\.0\.extra\.weight"):
        decoder().tensor_name("model.layers.0.extra.weight")


def test_buffers_of_old_checkpoints_are_left_out() -> None:
    assert decoder().tensor_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None


def test_a_window_that_llama_cpp_ignores_is_said(caplog: pytest.LogCaptureFixture) -> None:
    decoder(architectures=["MistralForCausalLM"], sliding_window=64)
    assert "ignores the sliding window of 64 tokens" in caplog.text
