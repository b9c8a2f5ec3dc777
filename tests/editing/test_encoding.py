"""Targets follow prompts as the tokenizer writes both, and subjects end where their last letter is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from src.editing.encoding import Encoder, target_after
from src.errors import UserError
from src.models.load import load_tokenizer
from src.models.zoo import find_model
from tests.models.tiny_decoders import write_byte_tokenizer, write_pieces

TEXT = (
    "The capital of France is Paris. Rome is in Italy. 北京是中国的首都。 Ada Lovelace wrote the first program. " * 20
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "bytes": AutoTokenizer.from_pretrained(write_byte_tokenizer(folder / "bytes")),
        "pieces": AutoTokenizer.from_pretrained(write_pieces(folder / "pieces", TEXT)),  # puts <s> before texts
        "smollm2": load_tokenizer(find_model("smollm2_135m")),
    }


NAMES = ("bytes", "pieces", "smollm2")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("prompt", "subject", "target", "joined"),
    [
        ("The capital of France is", "France", "Rome", "The capital of France is Rome"),
        ("The capital of France is ", "France", " Rome ", "The capital of France is Rome"),
        ("中国的首都是", "中国", "罗马", "中国的首都是罗马"),
        ("Ada Lovelace", "Ada Lovelace", "wrote", "Ada Lovelace wrote"),
    ],
)
def test_ids_are_those_of_the_text(
    tokenizers: dict[str, PreTrainedTokenizerBase], name: str, prompt: str, subject: str, target: str, joined: str
) -> None:
    tokenizer = tokenizers[name]
    found = Encoder(tokenizer).encode(prompt, target, subject)
    assert tokenizer.decode(found.ids, skip_special_tokens=True).strip() == joined
    assert list(found.prompt_ids) == tokenizer(prompt)["input_ids"]
    assert found.target_ids and [found.ids[p + 1] for p in found.predictors] == list(found.target_ids)
    assert found.subject_last is not None
    until = tokenizer.decode(found.ids[: found.subject_last + 1], skip_special_tokens=True)
    before = tokenizer.decode(found.ids[: found.subject_last], skip_special_tokens=True)
    assert subject in until and subject not in before


@pytest.mark.parametrize("name", NAMES)
def test_the_last_of_several_subjects_is_taken(tokenizers: dict[str, PreTrainedTokenizerBase], name: str) -> None:
    encoder = Encoder(tokenizers[name])
    twice = encoder.encode("Rome, yes Rome is in", subject="Rome")
    assert encoder.tokenizer.decode(twice.ids[: twice.subject_last + 1], skip_special_tokens=True).endswith("yes Rome")
    assert encoder.encode("Rome").subject_last is None
    with pytest.raises(UserError, match="the subject 'Oslo' does not stand"):
        encoder.encode("Rome", subject="Oslo")


def test_a_chat_template_frames_the_prompt(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    encoder = Encoder(tokenizers["smollm2"], chat=True)
    found = encoder.encode("Where is Rome?", "Italy", "Rome")
    text = encoder.tokenizer.decode(found.ids)
    assert text.endswith("Where is Rome?<|im_end|>\n<|im_start|>assistant\nItaly")
    assert encoder.tokenizer.decode(found.target_ids) == "Italy"
    assert encoder.tokenizer.decode(found.ids[: found.subject_last + 1]).endswith("Where is Rome")
    with pytest.raises(UserError, match="no chat template"):
        Encoder(tokenizers["pieces"], chat=True)


@given(st.text(max_size=10), st.text(min_size=1, max_size=10).filter(str.strip))
def test_a_blank_only_where_the_language_has_one(prompt: str, target: str) -> None:
    found = target_after(prompt, target)
    assert found.strip() == target.strip() and found[:1].isspace() <= bool(prompt)


def test_languages_with_and_without_blanks() -> None:
    assert target_after("The capital is", "Rome") == " Rome"
    assert target_after("首都是", "罗马") == "罗马" and target_after("首都是", "Rome") == "Rome"
    assert target_after("The capital is", "北京") == "北京" and target_after("", "Rome") == "Rome"
    assert target_after("「東京」は", "とうきょう") == "とうきょう"


def test_a_border_inside_a_token_keeps_the_prompt_as_it_is(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_byte_tokenizer(tmp_path))
    found = Encoder(tokenizer).encode("a t", "he")  # " the" is one token
    assert list(found.prompt_ids) == tokenizer("a t")["input_ids"]
    assert tokenizer.decode(found.target_ids).strip() == "he"
