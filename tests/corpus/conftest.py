"""Tokenizers of both engines, trained here in a second, and the paths the corpus tests share."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from src.models.tokenizer import TextEncoder, open_encoder

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It was a bright cold day in April.\n\nNobody said anything at all.",
    "def main():\n    for line in lines:\n        print(line)\n\n    return 0\n\n\nclass Fox:\n    pass\n",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。\n今天天气很好，我们去公园玩！",
] * 20


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory) -> Path:
    """A byte-level BPE in which line ends and indentation share tokens, as in vocabularies made for code."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(TEXTS, trainer)
    folder = tmp_path_factory.mktemp("tokenizers") / "byte_level"
    folder.mkdir()
    engine.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory) -> Path:
    """A SentencePiece BPE with byte fallback, a dummy prefix and no normaliser, as Llama's."""
    folder = tmp_path_factory.mktemp("tokenizers") / "llama_like"
    folder.mkdir()
    with (folder / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS),
            model_writer=stream,
            model_type="bpe",
            vocab_size=400,
            byte_fallback=True,
            required_chars="<0x123456789ABCDEF>",  # no piece may be spelled with fewer, or the fast engine is not exact
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return folder


@pytest.fixture(scope="session")
def encoders(byte_level_folder, sentencepiece_folder) -> dict[str, TextEncoder]:
    return {"byte_level": open_encoder(byte_level_folder), "sentencepiece": open_encoder(sentencepiece_folder)}


@pytest.fixture(scope="session")
def corpora() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora"
    if not folder.is_dir():
        pytest.skip("the shared test corpora are not here")
    return folder
