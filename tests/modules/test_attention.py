"""Packed rows are attended segment by segment, whichever implementation does it; impossible ones are refused."""

import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from src.datamodules.layout import with_segments
from src.errors import UserError
from src.modules.attention import attention_arguments, choose_attention
from src.modules.loss import supervised_loss

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROWS = [[9, 1, 14], [24], [5, 5, 5, 9]]


def llama(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SIZES), attn_implementation=attention)
    model.config.use_cache = False
    return model.train()


def batch_of(rows: list[list[int]]) -> dict[str, Any]:
    positions = torch.stack([torch.cat([torch.arange(length) for length in lengths]) for lengths in rows])
    ids = torch.randint(64, positions.shape, generator=torch.Generator().manual_seed(1))
    labels = torch.where(positions == 0, -100, ids)
    return with_segments({"input_ids": ids, "position_ids": positions, "labels": labels})


def hidden_states(model: Any, batch: dict[str, Any]) -> Tensor:
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    return model.model(**inputs, use_cache=False, **attention_arguments(model.model, batch)).last_hidden_state


def alone(model: Any, batch: dict[str, Any]) -> Tensor:
    """Hidden states of every segment by itself, in a row without others."""
    ids, states = batch["input_ids"].flatten(), []
    for start, end in zip(batch["segment_starts"][:-1], batch["segment_starts"][1:], strict=True):
        single = with_segments(
            {"input_ids": ids[None, start:end], "position_ids": torch.arange(int(end - start))[None]}
        )
        states.append(hidden_states(model, single)[0])
    return torch.cat(states).view(*batch["input_ids"].shape, -1)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "packed_varlen"])
def test_packed_segments_are_as_if_alone(attention: str) -> None:
    model, batch = llama(attention), batch_of(ROWS)
    torch.testing.assert_close(hidden_states(model, batch), alone(model, batch), atol=2e-6, rtol=1e-5)


def test_flex_attention_keeps_segments_apart_too() -> None:
    batch = batch_of(ROWS)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiling it takes a minute
        found = hidden_states(llama("flex_attention"), batch)
        torch.testing.assert_close(found, hidden_states(llama("sdpa"), batch), atol=2e-6, rtol=1e-5)


def gradients(model: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad()
    supervised_loss(model, batch).total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_varlen_and_sdpa_give_the_same_gradients() -> None:
    batch = batch_of(ROWS)
    found, wanted = gradients(llama("packed_varlen"), batch), gradients(llama("sdpa"), batch)
    for name in wanted:
        assert (found[name] - wanted[name]).norm() < 1e-5 * wanted[name].norm(), name


def test_under_autocast_varlen_computes_in_bfloat16() -> None:
    batch = batch_of(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = (hidden_states(llama(name), batch) for name in ("packed_varlen", "sdpa"))
    assert (found - wanted).norm() < 1e-2 * wanted.norm()


def test_a_sliding_window_is_kept() -> None:
    outputs = []
    for attention in ("packed_varlen", "eager"):
        torch.manual_seed(0)
        config = MistralConfig(**SIZES, sliding_window=6)
        model = MistralForCausalLM._from_config(config, attn_implementation=attention).train()
        outputs.append(hidden_states(model, batch_of(ROWS)))
    torch.testing.assert_close(*outputs, atol=2e-6, rtol=1e-5)


def test_a_model_with_segments_in_training_generates_like_any_other() -> None:
    prompt = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    inputs = {"input_ids": prompt, "attention_mask": (prompt > 0).long()}
    written = [
        llama(name).eval().generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=True, pad_token_id=0)
        for name in ("packed_varlen", "sdpa")
    ]
    assert written[0].tolist() == written[1].tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=4))
def test_segment_starts_are_the_sums_of_lengths(rows: list[list[int]]) -> None:
    length = max(sum(row) for row in rows)
    lengths = [[*row, length - sum(row)] if sum(row) < length else row for row in rows]
    batch = batch_of(lengths)
    sizes = [size for row in lengths for size in row]
    assert batch["segment_starts"].diff().tolist() == sizes and batch["segment_starts"].dtype == torch.int32
    assert batch["segment_starts"][0] == 0 and batch["longest_segment"] == max(sizes)
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"])
    assert batch["segment_starts"].tolist() == starts.tolist() and batch["longest_segment"] == longest


def reference_flash(calls: list[dict[str, Any]]) -> Any:
    """What the packages' ``flash_attn_varlen_func`` computes, with its argument names, in plain PyTorch."""

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        assert causal and cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert isinstance(max_seqlen_q, int) and max_seqlen_q == int(cu_seqlens_q.diff().max())
        calls.append({"dtype": q.dtype, "window": window_size, "shape": tuple(q.shape)})
        outs = []
        for start, end in zip(cu_seqlens_q.tolist()[:-1], cu_seqlens_k.tolist()[1:], strict=True):
            query, key, value = q[start:end], k[start:end], v[start:end]
            key, value = (one.repeat_interleave(q.shape[1] // k.shape[1], 1) for one in (key, value))
            scores = torch.einsum("qhd,khd->hqk", query, key) * (softmax_scale or 1 / math.sqrt(q.shape[-1]))
            distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
            seen = (distance >= 0) & ((distance <= window_size[0]) if window_size[0] >= 0 else True)
            outs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -math.inf).softmax(-1), value))
        return torch.cat(outs)

    return flash_attn_varlen_func


@pytest.mark.parametrize(
    ("attention", "package"), [("packed_fa2", "flash_attn"), ("packed_fa3", "flash_attn_interface")]
)
def test_flash_kernels_are_called_with_the_segments(
    attention: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    stand_in = ModuleType(package)  # the packages exist for GPUs only
    stand_in.flash_attn_varlen_func = reference_flash(calls)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, stand_in)
    batch = batch_of(ROWS)
    found, wanted = gradients(llama(attention), batch), gradients(llama("sdpa"), batch)
    for name in wanted:
        assert (found[name] - wanted[name]).norm() < 1e-5 * wanted[name].norm(), name
    assert [call["shape"] for call in calls] == [(72, 4, 8)] * 2 and calls[0]["window"] == (-1, -1)
    with torch.autocast("cpu", torch.bfloat16):
        supervised_loss(llama(attention), batch)
    assert calls[-1]["dtype"] == torch.bfloat16


def test_auto_on_a_cpu_is_the_loop_over_segments_unless_it_is_compiled() -> None:
    assert choose_attention("auto", LlamaConfig(), CPU, sixteen_bit=True) == "packed_varlen"
    assert choose_attention("auto", LlamaConfig(), CPU, sixteen_bit=True, compiled=True) == "sdpa"


def test_auto_avoids_what_a_model_does_not_allow() -> None:
    dropping = LlamaConfig(attention_dropout=0.1)
    assert choose_attention("auto", dropping, CPU, sixteen_bit=True) == "sdpa"
    other = LlamaConfig()
    other.model_type = "gemma2"
    assert choose_attention("auto", other, CPU, sixteen_bit=True) == "sdpa"


@pytest.mark.parametrize(
    ("capability", "sixteen_bit", "chosen"),
    [((7, 0), True, "sdpa"), ((8, 0), True, "packed_varlen"), ((9, 0), False, "sdpa")],
)
def test_auto_on_cuda_without_flash_attention_is_pytorchs_kernel_where_the_gpu_can_run_it(
    capability: tuple[int, int], sixteen_bit: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_attention("auto", LlamaConfig(), CUDA, sixteen_bit) == chosen


@pytest.mark.parametrize(
    ("asked", "capability", "installed", "sixteen_bit", "words"),
    [
        ("flash_attention_2", (9, 0), False, True, "needs the package flash_attn: pip install flash-attn"),
        ("flash_attention_3", (8, 0), True, True, "compute capability 9.0 and a GPU has 8.0"),
        ("flash_attention_2", (8, 0), True, False, "16 bits only: give trainer.precision=bf16-mixed"),
        ("varlen", (7, 0), False, True, "compute capability 8.0 and a GPU has 7.0"),
    ],
)
def test_what_a_gpu_cannot_run_is_refused_with_advice(
    asked: str,
    capability: tuple[int, int],
    installed: bool,
    sixteen_bit: bool,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    with pytest.raises(UserError, match=words):
        choose_attention(asked, LlamaConfig(), CUDA, sixteen_bit)


def test_flash_attention_on_a_cpu_and_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"must be one of auto, sdpa, .* found 'flash'"):
        choose_attention("flash", LlamaConfig(), CPU, sixteen_bit=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match="runs on CUDA only and this run is on cpu"):
        choose_attention("flash_attention_2", LlamaConfig(), CPU, sixteen_bit=True)
    with pytest.raises(UserError, match="flex_attention has no backward pass on a CPU: give varlen or sdpa"):
        choose_attention("flex_attention", LlamaConfig(), CPU, sixteen_bit=True)
