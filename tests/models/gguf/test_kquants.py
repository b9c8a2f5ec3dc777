"""K-quants by llama.cpp's quantiser, or a sentence that says how to get it."""

import importlib.util
from pathlib import Path

import pytest

from src.errors import UserError
from src.models.gguf.export import gguf_file, write_gguf
from src.models.gguf.kquants import quantize_k
from src.models.gguf.verify import verify_gguf
from src.models.spec import ModelSpec
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder

INSTALLED = importlib.util.find_spec("llama_cpp") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 256, "intermediate_size": 288}
    return write_decoder(tmp_path / "m", write_byte_tokenizer(tmp_path / "t"), **sizes)


@pytest.mark.skipif(INSTALLED, reason="llama-cpp-python is installed")
def test_without_the_quantiser_the_message_says_how_to_get_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install llama-cpp-python .* or give q4_1, q5_1 or q8_0"):
        write_gguf(folder, tmp_path / "m.gguf", "q4_k_m")
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="llama-cpp-python is not installed")
class TestWithTheQuantiser:
    def test_rows_that_do_not_fit_fall_back_and_are_counted(self, folder: Path, tmp_path: Path) -> None:
        write_gguf(folder, tmp_path / "m.gguf", "q6_k")
        found = verify_gguf(tmp_path / "m.gguf", folder, "q6_k")
        assert found.types["Q6_K"] > 4 and found.fell_back == {"Q8_0": 2}  # ffn_down, 288 wide, in two blocks
        assert found.fidelity is not None and found.fidelity.top1 > 0.7
        assert sorted(file.name for file in tmp_path.glob("*.gguf*")) == ["m.gguf", "m.gguf.json"]

    def test_a_gguf_file_of_the_user_becomes_one_of_k_quants(self, folder: Path, tmp_path: Path) -> None:
        write_gguf(folder, tmp_path / "m.gguf", "q8_0")
        spec = ModelSpec(path=str(tmp_path / "m.gguf"), cache_dir=str(tmp_path / "cache"))
        assert gguf_file(spec, "q6_k").stat().st_size < (tmp_path / "m.gguf").stat().st_size

    def test_a_damaged_file_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 64)
        with pytest.raises(UserError, match=r"llama\.cpp cannot quantise the model to q6_k"):
            quantize_k(tmp_path / "bad.gguf", tmp_path / "out.gguf", "q6_k")
