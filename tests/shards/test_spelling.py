"""Ids become text again with byte-level and SentencePiece vocabularies alike."""

import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from src.models.tokenizer import open_encoder
from src.shards.spelling import text_of

TEXTS = ["The quick brown fox.\n  It jumps, 42 times!", "床前明月光，疑是地上霜。", "def f(x):\n\treturn x\n"] * 20


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "byte_level":
        engine = tokenizers.Tokenizer(tokenizers.models.BPE())
        engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        options = {"vocab_size": 350, "special_tokens": ["<eos>"], "initial_alphabet": alphabet, "show_progress": False}
        engine.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(**options))
        engine.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    else:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS),
            model_prefix=str(folder / "tokenizer"),
            model_type="bpe",
            vocab_size=360,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return open_encoder(folder)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_of_the_ids_of_a_text_is_the_text(encoder, text):
    (ids,) = encoder.encode_batch([text])
    assert text_of(ids.tolist(), encoder) in (text, f" {text}")  # SentencePiece puts a blank before a text


def test_special_tokens_and_foreign_ids_are_spelled_out(encoder):
    assert text_of([encoder.eos_id, 70000, -1], encoder) == f"{encoder.tokens[encoder.eos_id]}<?70000><?-1>"


def test_half_a_character_is_marked(encoder):
    (ids,) = encoder.encode_batch(["\U0001f600"])
    assert "\ufffd" in text_of(np.asarray(ids)[:-1].tolist(), encoder)
