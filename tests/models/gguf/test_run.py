"""llama.cpp in a process of its own: greedy tokens, their probabilities, and a sentence when it fails."""

import math
from pathlib import Path

import pytest

from src.errors import UserError
from src.models.gguf.export import write_gguf
from src.models.gguf.run import ask_llama_cpp
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder


@pytest.mark.slow
def test_tokens_come_with_probabilities_and_texts_with_tokens(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "m", write_byte_tokenizer(tmp_path / "t"))
    write_gguf(folder, tmp_path / "m.gguf", "f32")
    answers = ask_llama_cpp(tmp_path / "m.gguf", [[5, 6], [7]], ["the  12"], 4)
    assert [len(tokens) for tokens in answers["continuations"]] == [4, 4]
    known = [logprob for tokens in answers["continuations"] for _, logprob in tokens if logprob is not None]
    assert known and all(0 < math.exp(logprob) <= 1 for logprob in known)
    assert len(answers["tokens"][0]) == 5  # t he ĠĠ 1 2


@pytest.mark.slow
def test_a_file_that_llama_cpp_does_not_load_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(UserError, match=r"llama\.cpp cannot use 'bad\.gguf': \S+"):
        ask_llama_cpp(tmp_path / "bad.gguf", [[1]], [], 1)
