"""Types of tensors, quantising by threads, and one GGUF file out of another."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.models.gguf.export import write_gguf
from src.models.gguf.quantize import check_file_type, open_gguf, quantized, requantize, tensor_type
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantize")
    return write_decoder(root / "model", write_byte_tokenizer(root / "tokenizer"))


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from([Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0, Kind.BF16, Kind.F16, Kind.F32]),
    rows=st.integers(1, 40),
    blocks=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_threads_give_the_bytes_of_one_call(small_chunks, kind: Kind, rows: int, blocks: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, 32 * blocks)).astype(np.float32)
    assert np.array_equal(quantized(values, kind), gguf.quantize(values, kind).view(np.uint8))


@pytest.fixture(scope="module")
def small_chunks():
    """Chunks small enough for a few rows to be several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.models.gguf.quantize.CHUNK_VALUES", 64)
        yield


def test_embeddings_and_output_stay_at_eight_bits_in_a_file_of_few() -> None:
    assert tensor_type("blk.0.attn_q.weight", (64, 64), "q4_0") == Kind.Q4_0
    assert tensor_type("token_embd.weight", (64, 64), "q4_0") == Kind.Q8_0
    assert tensor_type("output.weight", (64, 64), "q5_1") == Kind.Q8_0
    assert tensor_type("output.weight", (64, 64), "f16") == Kind.F16


def test_vectors_stay_float32_and_odd_rows_half_precision() -> None:
    assert tensor_type("blk.0.attn_norm.weight", (64,), "q4_0") == Kind.F32
    assert tensor_type("blk.0.attn_q.bias", (64,), "f16") == Kind.F32
    assert tensor_type("blk.0.attn_q.weight", (64, 40), "q8_0") == Kind.F16


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [([np.nan] * 32, Kind.Q8_0, "not finite"), ([1e5] * 32, Kind.F16, "above 65504, too large for half precision")],
)
def test_numbers_that_do_not_fit_are_refused(values: list[float], kind: Kind, message: str) -> None:
    with pytest.raises(UserError, match=message):
        quantized(np.array([values], np.float32), kind, "x")


def test_an_unknown_type_is_a_sentence() -> None:
    with pytest.raises(UserError, match="file_type=q4 is not known: expected one of f32, f16"):
        check_file_type("q4")


@pytest.mark.parametrize("file_type", ["q8_0", "q4_1", "f16"])
def test_requantising_gives_the_file_that_writing_gives(folder: Path, tmp_path: Path, file_type: str) -> None:
    write_gguf(folder, tmp_path / "f32.gguf", "f32", {"name": "tiny"})
    write_gguf(folder, tmp_path / "direct.gguf", file_type, {"name": "tiny"})
    requantize(tmp_path / "f32.gguf", tmp_path / "second.gguf", file_type)
    direct, second = open_gguf(tmp_path / "direct.gguf"), open_gguf(tmp_path / "second.gguf")
    for one, other in zip(direct.tensors, second.tensors, strict=True):
        assert (one.name, one.tensor_type) == (other.name, other.tensor_type)
        assert np.array_equal(one.data, other.data)
    fields = {name: field.contents() for name, field in direct.fields.items() if not name.startswith("GGUF.")}
    assert fields == {n: field.contents() for n, field in second.fields.items() if not n.startswith("GGUF.")}


def test_what_is_no_gguf_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        requantize(tmp_path / "bad.gguf", tmp_path / "out.gguf", "q8_0")
