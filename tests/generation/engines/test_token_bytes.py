"""Tokens as bytes: their concatenation is the text, for both kinds of vocabulary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from src.generation.engines.token_bytes import TokenBytes
from src.models.load import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return load_tokenizer(smollm2)


@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cn", "Cc"]), max_size=40))
def test_bytes_of_a_byte_level_vocabulary_join_to_the_text(tokenizer, text):
    names = TokenBytes(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert b"".join(names[token] for token in ids).decode() == text


def test_word_marks_and_byte_tokens_of_a_sentencepiece_vocabulary():
    vocabulary = {"<unk>": 0, "<0xE6>": 1, "<0x98>": 2, "<0xA5>": 3, "\u2581spring": 4, "<s>": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    names = TokenBytes(fast)
    assert b"".join(names[token] for token in (4, 1, 2, 3)).decode() == " spring春"
    assert names[5] == b"<s>"


def test_half_a_character_is_shown_as_such(tokenizer):
    names = TokenBytes(tokenizer)
    token = next(t for t in tokenizer.encode("🙂", add_special_tokens=False) if len(names[t]) < 4)
    assert "\ufffd" in names.text(token)
