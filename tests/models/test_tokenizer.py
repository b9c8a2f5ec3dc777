"""Ids, offsets and fingerprints with every engine, and which engine is chosen, on vocabularies trained here."""

import gzip
import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.models.tokenizer import TextEncoder, open_encoder

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It was a bright cold day in April.\n\nNobody said anything at all.",
    "def main():\n    for line in lines:\n        print(line)\n    return 0\n",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。今天天气很好，我们去公园玩。",
] * 20
AWKWARD = [
    "",
    " ",
    "  two blanks",
    "tail ",
    "\n",
    "a\r\nb\r\n",
    "nul\x00inside",
    "line\u2028separator\u2029paragraph",
    "😀👩‍👩‍👧 emoji",
    "e\u0301 combining n\u0303",
    "漢字とかな한글",
    "\ufb01\uff11\uff12 ligature",
    "literal \u2581 mark",
    "</s><s><unk><|endoftext|>",
    "a\tb  c   d\u3000e",
    "\ufffd lone \ufeff mark",
    "<0x0A> <0x41>",
]
PIECES = st.sampled_from([*AWKWARD, "the ", "quick", "月光", "    ", "\n\n", "don't", "42"])
MIXED = st.lists(PIECES | st.text(max_size=6), max_size=20).map("".join)


def byte_level(folder: Path) -> Path:
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(TEXTS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    engine.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    return folder


def sentencepiece_model(folder: Path, kind: str, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS),
            model_writer=stream,
            model_type=kind,
            vocab_size=400,
            hard_vocab_limit=False,
            minloglevel=2,
            **{"byte_fallback": True} | options,
        )
    return folder


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA_LIKE = IDENTITY | {"required_chars": "<0x123456789ABCDEF>"}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    root = tmp_path_factory.mktemp("tokenizers")
    folders = {
        "byte_level": byte_level(root / "byte_level"),
        "bpe": sentencepiece_model(root / "bpe", "bpe", **LLAMA_LIKE),
        "unigram": sentencepiece_model(root / "unigram", "unigram", **IDENTITY),
        "normalizing": sentencepiece_model(root / "normalizing", "unigram"),
        "no_fallback": sentencepiece_model(root / "no_fallback", "bpe", byte_fallback=False),
    }
    slow = {f"{kind}_reference": open_encoder(folders[kind], engine="reference") for kind in FAST}
    return {kind: open_encoder(folder) for kind, folder in folders.items()} | slow


FAST = ["byte_level", "bpe"]
EXACT = [*FAST, "byte_level_reference", "bpe_reference", "unigram"]
ALL = [*EXACT, "normalizing", "no_fallback"]


def spelled(encoder: TextEncoder, ids: np.ndarray) -> bytes:
    """The bytes the ids stand for, by the spelling of each token."""
    alphabet = {chr(c): c for c in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    missing = [b for b in range(256) if b not in alphabet.values()]
    alphabet |= {chr(256 + i): b for i, b in enumerate(missing)}
    parts = []
    for token in (encoder.tokens[i] for i in ids):
        if type(encoder).__name__ == "_JsonEncoder":
            parts.append(bytes(alphabet[c] for c in token))
        elif token.startswith("<0x") and len(token) == 6:
            parts.append(bytes([int(token[3:5], 16)]))
        else:
            parts.append(token.replace("\u2581", " ").encode())
    return b"".join(parts)


@pytest.mark.parametrize("kind", EXACT)
@given(text=st.text(max_size=60) | st.sampled_from(AWKWARD))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_token_ends_are_where_the_spelling_of_the_tokens_ends(encoders, kind, text):
    encoder = encoders[kind]
    (ids,) = encoder.encode_batch([text])
    ends = encoder.token_ends(ids, text)
    raw = text.encode()
    if "\u2581" in text:  # SentencePiece reads this mark as a blank
        assert ends.size == 0 or ends[-1] == len(raw)
        return
    prefix = len(spelled(encoder, ids)) - len(raw)
    assert prefix in (0, 1)
    assert spelled(encoder, ids)[prefix:] == raw
    expected = [max(0, len(spelled(encoder, ids[: i + 1])) - prefix) for i in range(len(ids))]
    assert ends.tolist() == expected


@pytest.mark.parametrize("kind", ALL)
@given(text=st.text(max_size=60) | st.sampled_from(AWKWARD))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_token_ends_never_fall_and_stay_inside_the_text(encoders, kind, text):
    (ids,) = encoders[kind].encode_batch([text])
    ends = encoders[kind].token_ends(ids, text)
    assert ends.dtype == np.int64 and len(ends) == len(ids)
    assert (np.diff(ends) >= 0).all()
    assert ends.size == 0 or (ends[0] >= 0 and ends[-1] <= len(text.encode()))


def test_a_normaliser_that_changes_the_text_falls_back_on_the_engine(encoders):
    text = "\ufb01ne  \uff11\uff12 fox"
    encoder = encoders["normalizing"]
    (ids,) = encoder.encode_batch([text])
    ends = encoder.token_ends(ids, text)
    fox = next(i for i, end in enumerate(ends) if end > text.encode().index(b"f" + b"ox"))
    assert ends[fox - 1] <= len("\ufb01ne  \uff11\uff12 ".encode())
    assert ends[-1] == len(text.encode())


@pytest.mark.parametrize("kind", ALL)
def test_special_tokens_inside_a_text_stay_plain_text(encoders, kind):
    encoder = encoders[kind]
    (ids,) = encoder.encode_batch(["stop</s> and <s> go <|endoftext|>"])
    specials = {encoder.bos_id, encoder.eos_id}
    assert not specials & set(ids.tolist())


@pytest.mark.parametrize("kind", FAST)
@given(texts=st.lists(MIXED, max_size=5))
@settings(max_examples=200, deadline=None)
def test_the_fast_engine_gives_the_ids_of_the_reference(encoders, kind, texts):
    fast, reference = encoders[kind], encoders[f"{kind}_reference"]
    assert (fast.engine, reference.engine) == ("fastokens", {"byte_level": "tokenizers", "bpe": "sentencepiece"}[kind])
    for ids, expected in zip(fast.encode_batch(texts), reference.encode_batch(texts), strict=True):
        assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ALL)
@given(texts=st.lists(MIXED, max_size=5))
@settings(max_examples=25, deadline=None)
def test_flat_ids_are_the_ids_of_the_batch_one_after_another(encoders, kind, texts):
    batch = encoders[kind].encode_batch(texts)
    ids, starts = encoders[kind].encode_flat(texts)
    assert ids.dtype == np.int32 and starts.dtype == np.int64 and len(starts) == len(texts) + 1
    assert ids.tolist() == [token for part in batch for token in part.tolist()]
    assert np.diff(starts).tolist() == [len(part) for part in batch]


@pytest.mark.parametrize(
    ("kind", "engine", "reason"),
    [
        ("byte_level", "fastokens", "same ids as tokenizers"),
        ("bpe", "fastokens", "same ids as sentencepiece"),
        ("bpe_reference", "sentencepiece", "asked for"),
        ("unigram", "sentencepiece", "only BPE is exact"),
        ("normalizing", "sentencepiece", "only BPE is exact"),
        ("no_fallback", "sentencepiece", "normalises"),
    ],
)
def test_an_encoder_says_which_engine_it_uses_and_why(encoders, kind, engine, reason):
    assert encoders[kind].engine == engine
    assert reason in encoders[kind].engine_reason


def test_the_choice_of_the_engine_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        open_encoder(byte_level(tmp_path / "mine"))
    assert "tokenizer 'mine' encodes with fastokens: same ids as tokenizers on the check texts" in caplog.text


def test_an_engine_that_was_asked_for_is_not_announced(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        open_encoder(byte_level(tmp_path / "mine"), engine="reference")
    assert "encodes with" not in caplog.text


def test_an_engine_that_makes_other_ids_is_not_used(tmp_path):
    """In this vocabulary "<" is no token: the fast engine reads a text's "<0x41>" as the byte token of that name."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"0": 256, "x": 257, "a": 258}
    model = {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": True, "vocab": vocabulary}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model | {"merges": []}}))
    encoder = open_encoder(file)
    assert encoder.engine == "tokenizers" and "differ on the check texts" in encoder.engine_reason
    assert encoder.encode_batch(["<0x41>"])[0].tolist() == [0x3C, 256, 257, 0x34, 0x31, 0x3E]
    with pytest.raises(UserError, match=r"cannot be encoded with fastokens: .* differ .*: set engine=auto"):
        open_encoder(file, engine="fastokens")


@pytest.mark.parametrize("kind", ["byte_level", "bpe_reference", "unigram"])
def test_an_encoder_sent_to_a_process_opens_its_files_there(encoders, kind):
    encoder = encoders[kind]
    again = pickle.loads(pickle.dumps(encoder))
    assert (again.name, again.engine, again.fingerprint) == (encoder.name, encoder.engine, encoder.fingerprint)
    assert again.encode_batch(TEXTS[:3])[2].tolist() == encoder.encode_batch(TEXTS[:3])[2].tolist()


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_gives_the_ids_of_each_text_alone(encoders, kind):
    encoder = encoders[kind]
    for text, ids in zip(AWKWARD, encoder.encode_batch(AWKWARD), strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == encoder.encode_batch([text])[0].tolist()
    assert encoder.encode_batch([]) == []


@pytest.mark.parametrize("kind", EXACT)
def test_a_megabyte_without_a_blank_is_encoded_in_seconds(encoders, kind):
    text = "月" * 340_000
    (ids,) = encoders[kind].encode_batch([text])
    assert encoders[kind].token_ends(ids, text)[-1] == len(text.encode())


def test_roles_come_from_the_folder_or_the_model(encoders):
    fast = encoders["byte_level"]
    assert fast.tokens[fast.bos_id] == "<s>" and fast.tokens[fast.eos_id] == "</s>"
    assert not fast.adds_bos
    piece = encoders["bpe"]
    assert (piece.bos_id, piece.eos_id, piece.adds_bos) == (1, 2, True)
    assert piece.token_id("</s>") == 2


def test_fingerprint_depends_on_the_vocabulary_and_not_on_the_place(encoders, tmp_path):
    copy = byte_level(tmp_path / "elsewhere")
    again = open_encoder(copy, name="other")
    assert again.name == "other"
    assert again.fingerprint == encoders["byte_level"].fingerprint
    assert encoders["bpe"].fingerprint == encoders["bpe_reference"].fingerprint
    assert len({encoder.fingerprint for encoder in encoders.values()}) == len(encoders) - len(FAST)


def test_a_folder_with_both_files_is_opened_as_a_fast_tokenizer(tmp_path):
    folder = byte_level(tmp_path / "both")
    shutil.copy(sentencepiece_model(tmp_path / "sp", "bpe") / "tokenizer.model", folder)
    assert open_encoder(folder).vocab_size == open_encoder(folder / "tokenizer.json").vocab_size


def test_mistakes_are_sentences(tmp_path, encoders):
    with pytest.raises(UserError, match="does not exist"):
        open_encoder(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds neither tokenizer"):
        open_encoder(tmp_path)
    for name in ("tokenizer.json", "tokenizer.model"):
        (tmp_path / name).write_text("{ not a tokenizer")
        with pytest.raises(UserError, match=name):
            open_encoder(tmp_path / name)
    with pytest.raises(UserError, match="has no token '<nope>'"):
        encoders["bpe"].token_id("<nope>")
    with pytest.raises(ValueError, match="not what tokenizer"):
        encoders["normalizing"].token_ends(np.array([5, 6]), "something  else")
    with pytest.raises(UserError, match="engine 'rust' is unknown: choose one of auto, reference, fastokens"):
        open_encoder(tmp_path, engine="rust")


@pytest.mark.slow
def test_the_default_model_encodes_with_exact_byte_ends(smollm2_dir):
    encoder = open_encoder(smollm2_dir)
    assert encoder.vocab_size == 49152 and encoder.engine == "fastokens"
    for text in AWKWARD:
        (ids,) = encoder.encode_batch([text])
        assert encoder.byte_lengths[ids].sum() == len(text.encode())


@pytest.mark.slow
@pytest.mark.parametrize("language", ["zh", "en", "code"])
def test_real_documents_have_the_ids_of_the_reference(smollm2_dir, language):
    file = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora" / f"{language}.jsonl.gz"
    if not file.is_file():
        pytest.skip("the shared test corpora are not here")
    with gzip.open(file, "rt") as lines:
        texts = [json.loads(next(lines))["text"] for _ in range(25)]
    fast = open_encoder(smollm2_dir, engine="fastokens").encode_batch(texts)
    reference = open_encoder(smollm2_dir, engine="reference").encode_batch(texts)
    assert all(np.array_equal(ids, expected) for ids, expected in zip(fast, reference, strict=True))
