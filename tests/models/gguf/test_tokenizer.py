"""llama.cpp's view of a tokenizer: its kind, its word rule, its special tokens; the same tokens come out."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from src.errors import UserError
from src.models.gguf.architecture import NotWrittenHereError
from src.models.gguf.export import write_gguf
from src.models.gguf.quantize import open_gguf
from src.models.gguf.run import ask_llama_cpp
from src.models.gguf.text import HARD_TO_CUT, TEXT
from src.models.gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_vocabulary, word_rule
from tests.models.tiny_decoders import write_byte_tokenizer, write_decoder, write_pieces

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pieces(tmp_path_factory.mktemp("pieces"), TEXT + "\n".join(HARD_TO_CUT))


def description(steps: list[dict], **model) -> dict:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "model": {"type": "BPE", **model}}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated"}


@pytest.mark.parametrize(
    ("steps", "model", "rule"),
    [
        ([{**BYTES, "use_regex": True}], {}, "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}], {}, "smollm"),
        ([SPLIT, BYTES], {"ignore_merges": True}, "llama-bpe"),
        ([SPLIT, BYTES], {}, "smaug-bpe"),
        ([{**SPLIT, "pattern": {"Regex": LLAMA3.replace("{1,3}", "")}}, BYTES], {}, "qwen2"),
        ([{**SPLIT, "pattern": {"Regex": r"\w+"}}, BYTES], {}, None),
        ([{**BYTES, "use_regex": True, "add_prefix_space": True}], {}, None),
        ([{"type": "Digits", "individual_digits": False}, {**BYTES, "use_regex": True}], {}, None),
    ],
)
def test_the_rule_that_cuts_words_is_recognised(steps: list[dict], model: dict, rule: str | None) -> None:
    assert word_rule(description(steps, **model)) == rule


@pytest.mark.parametrize(("kind", "rule"), [("NFC", "gpt-2"), ("NFKC", None), ("Lowercase", None)])
def test_a_tokenizer_that_changes_characters_first_is_not_recognised(kind: str, rule: str | None) -> None:
    assert word_rule({**description([{**BYTES, "use_regex": True}]), "normalizer": {"type": kind}}) == rule


def test_a_rule_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    folder = write_byte_tokenizer(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(NotWrittenHereError, match="cuts words by another rule"):
        read_vocabulary(folder, 300)


def test_the_vocabulary_is_filled_up_and_cut_to_the_models_size(tmp_path: Path) -> None:
    folder = write_byte_tokenizer(tmp_path)
    larger, smaller = read_vocabulary(folder, 270), read_vocabulary(folder, 100)
    assert larger.tokens[262:265] == ["ĠĠ", "[PAD263]", "[PAD264]"] and larger.kinds[262:264] == [NORMAL, UNUSED]
    assert len(larger.tokens) == len(larger.kinds) == 270 and len(smaller.tokens) == 100
    assert smaller.kinds[:4] == [CONTROL, CONTROL, CONTROL, NORMAL]


def test_a_sentencepiece_model_keeps_its_kinds_and_scores(pieces: Path) -> None:
    found = read_vocabulary(pieces, 700)
    assert (found.model, found.kinds[:4], found.tokens[:3]) == (
        "llama",
        [UNKNOWN, CONTROL, CONTROL, BYTE],
        ["<unk>", "<s>", "</s>"],
    )
    assert found.adds_blank and found.ids == {"bos": 1, "eos": 2, "unk": 0}
    merged = [score for kind, score in zip(found.kinds, found.scores, strict=True) if kind == NORMAL]
    assert merged == sorted(merged, reverse=True)


def test_added_tokens_are_of_their_own_kind(pieces: Path, tmp_path: Path) -> None:
    shutil.copytree(pieces, tmp_path / "p")
    (tmp_path / "p" / "added_tokens.json").write_text(json.dumps({"<tool>": 650}))
    found = read_vocabulary(tmp_path / "p", 700)
    assert (found.tokens[650], found.kinds[650], found.kinds[649]) == ("<tool>", USER_DEFINED, UNUSED)


@pytest.mark.parametrize("known", [True, False])
def test_pieces_of_changed_characters_are_refused(pieces: Path, tmp_path: Path, known: bool) -> None:
    shutil.copytree(pieces, tmp_path / "p")
    AutoTokenizer.from_pretrained(pieces).save_pretrained(tmp_path / "p")
    content = json.loads((tmp_path / "p" / "tokenizer.json").read_text())
    blanks = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    content["normalizer"] = {"type": "Sequence", "normalizers": blanks if known else [{"type": "NFKC"}, *blanks]}
    (tmp_path / "p" / "tokenizer.json").write_text(json.dumps(content))
    if known:
        assert read_vocabulary(tmp_path / "p", 700).model == "llama"
    else:
        with pytest.raises(NotWrittenHereError, match="changes characters before it cuts"):
            read_vocabulary(tmp_path / "p", 700)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "t.txt").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "t.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=200, minloglevel=2
    )
    with pytest.raises(NotWrittenHereError, match="unigram model and not BPE"):
        read_vocabulary(tmp_path, 300)


def test_a_folder_without_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither tokenizer.json nor tokenizer.model"):
        read_vocabulary(tmp_path, 10)


def test_special_tokens_and_chat_template_are_in_the_file(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "m", write_byte_tokenizer(tmp_path / "t"))
    write_gguf(folder, tmp_path / "m.gguf", "q8_0")
    fields = open_gguf(tmp_path / "m.gguf").fields
    found = {
        name.removeprefix("tokenizer."): fields[name].contents() for name in fields if name.startswith("tokenizer.")
    }
    assert found["ggml.pre"] == "smollm" and found["chat_template"].startswith("{% for message")
    assert [found[f"ggml.{role}_token_id"] for role in ("bos", "eos", "unknown", "padding")] == [1, 2, 0, 2]
    assert (found["ggml.add_bos_token"], found["ggml.add_eos_token"]) == (False, False)


def test_the_settings_name_the_end_token_before_the_sentencepiece_model(pieces: Path, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "m", pieces, vocab_size=700)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = {"650": {"content": "<|im_end|>", "special": True}}
    settings |= {"eos_token": "<|im_end|>", "bos_token": "", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_gguf(folder, tmp_path / "m.gguf", "q8_0")
    fields = open_gguf(tmp_path / "m.gguf").fields
    assert [fields[f"tokenizer.ggml.{role}_token_id"].contents() for role in ("bos", "eos")] == [1, 650]
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["tokenizer.model", "tokenizer.json", "both"])
def test_llama_cpp_cuts_like_a_sentencepiece_tokenizer(pieces: Path, tmp_path: Path, kept: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pieces)
    folder = tmp_path / "m"
    write_decoder(folder, pieces, vocab_size=700)
    if kept != "tokenizer.model":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(folder)
    if kept == "tokenizer.json":
        (folder / "tokenizer.model").unlink()
    write_gguf(folder, tmp_path / "m.gguf", "f32")
    # with a blank in front, transformers adds none of its own; SentencePiece and llama.cpp do
    texts = [TEXT, *(text for text in HARD_TO_CUT if not text.startswith(" "))]
    answers = ask_llama_cpp(tmp_path / "m.gguf", [], texts, 0)
    assert answers["tokens"] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert answers["opening"] == [1]


@pytest.mark.slow
def test_llama_cpp_cuts_like_smollms_tokenizer(tmp_path: Path, smollm2_dir: Path) -> None:
    folder = write_decoder(tmp_path / "m", smollm2_dir, vocab_size=49152)
    write_gguf(folder, tmp_path / "m.gguf", "q8_0")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    answers = ask_llama_cpp(tmp_path / "m.gguf", [], [TEXT, *HARD_TO_CUT], 0)
    assert answers["tokens"] == [tokenizer(text)["input_ids"] for text in (TEXT, *HARD_TO_CUT)]
    assert answers["opening"] == []
