"""The fast engine: exact where its description is right, refused where it cannot be, one thread, bounded memory."""

import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from src.models.fast_tokenizer import (
    CHECK_TEXTS,
    FastEngine,
    NotExactError,
    check_description,
    describe_sentencepiece,
    same_ids,
)

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.  It was a bright cold day in April.",
    "def main():\n    for line in lines:\n        print(line)\n",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。",
] * 20


def trained(**options: object) -> bytes:
    model = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "vocab_size": 450,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "required_chars": "<0x123456789ABCDEF>",
        "user_defined_symbols": [],
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, hard_vocab_limit=False, minloglevel=2, **settings | options
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return trained()


@pytest.fixture(scope="module")
def engines(model) -> tuple[FastEngine, sentencepiece.SentencePieceProcessor]:
    return FastEngine(describe_sentencepiece(model)), sentencepiece.SentencePieceProcessor(model_proto=model)


PIECES = st.sampled_from(
    [
        *("the ", "fox", "明月", "，", "é", "e\u0301", "😀", "👩\u200d👩\u200d👧", "\ufffd", "\u2028", "\u2581"),
        *("\n", "\r\n", "\t", "\x00", " ", "  ", "    ", "</s>", "<s>", "<unk>", "<0x0A>", "<0x41>", "<", "0x41"),
    ]
)


@given(st.lists(st.lists(PIECES | st.text(max_size=6), max_size=25).map("".join), max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_described_model_gives_the_ids_of_sentencepiece(engines, texts):
    engine, reference = engines
    ids, starts = engine.encode_flat(texts)
    assert ids.dtype == np.int32 and starts.dtype == np.int64 and len(starts) == len(texts) + 1
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == reference.encode(texts)


@pytest.mark.parametrize("text", ["月" * 340_000, "fox" * 340_000, " " * 1_000_000, "\n" * 300_000, "</s>" * 90_000])
def test_a_megabyte_on_one_line_has_the_ids_of_sentencepiece(engines, text):
    engine, reference = engines
    assert same_ids(engine, [text], [reference.encode(text, return_type="numpy")])


def test_merges_are_in_the_order_of_the_scores_and_not_of_the_ids(model):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    blanks = next(piece for piece in proto.pieces if piece.piece == "\u2581\u2581")
    blanks.score = -1e9  # as in Llama's vocabulary, where runs of blanks have small ids
    model = proto.SerializeToString()
    merges = json.loads(describe_sentencepiece(model))["model"]["merges"]
    assert ["\u2581", "\u2581"] in merges[-2:]
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*CHECK_TEXTS, *TEXTS]
    engine = FastEngine(describe_sentencepiece(model))
    assert same_ids(engine, texts, [reference.encode(text, return_type="numpy") for text in texts])


def test_a_difference_is_noticed(engines):
    engine, reference = engines
    ids = reference.encode("the quick brown fox", return_type="numpy")
    assert same_ids(engine, ["the quick brown fox"], [ids])
    assert not same_ids(engine, ["the quick brown fox"], [ids[:-1]])
    assert not same_ids(engine, ["the quick brown fox!"], [ids])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram"}, "only BPE is exact"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises"),
        ({"remove_extra_whitespaces": True}, "normalises"),
        ({"treat_whitespace_as_suffix": True}, "marks blanks in another way"),
        ({"byte_fallback": False}, "no byte fallback"),
        ({"user_defined_symbols": ["<sep>"]}, "user-defined"),
        ({"required_chars": ""}, "<0x0A>"),
    ],
)
def test_models_that_the_description_has_no_words_for_are_refused(options, reason):
    with pytest.raises(NotExactError, match=reason):
        describe_sentencepiece(trained(**options))


def test_a_model_whose_merges_are_tied_is_refused(model):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    merged = [piece for piece in proto.pieces if piece.type == 1 and len(piece.piece) > 1]
    merged[-1].score = merged[-2].score
    with pytest.raises(NotExactError, match="same score"):
        describe_sentencepiece(proto.SerializeToString())


def test_a_json_that_is_no_plain_bpe_is_refused():
    with pytest.raises(NotExactError, match="a Unigram vocabulary"):
        check_description(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(NotExactError, match="dropout"):
        check_description(json.dumps({"model": {"type": "BPE", "dropout": 0.1}}))
    with pytest.raises(NotExactError, match="fastokens cannot read it"):
        FastEngine(json.dumps({"model": {"type": "BPE"}}))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_stays_at_one_thread_and_its_memory_does_not_grow_with_the_text(model, tmp_path):
    (tmp_path / "model").write_bytes(model)
    script = f"""
import random, re, sys
sys.path.insert(0, {str(ROOT)!r})
from src.models.fast_tokenizer import FastEngine, describe_sentencepiece

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

engine = FastEngine(describe_sentencepiece(open({str(tmp_path / "model")!r}, "rb").read()))
threads = status("Threads")
letters = random.Random(0)
for megabyte in range(16):
    words = ["".join(letters.choices("abcdefghij", k=8)) for _ in range(110_000)]
    engine.encode_flat([" ".join(words)])
    if megabyte == 3:
        before = status("VmRSS")
print(status("Threads") - threads, status("VmRSS") - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    threads, kilobytes = map(int, result.stdout.split())
    assert threads == 0
    assert kilobytes < 16_000
