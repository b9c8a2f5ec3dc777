"""A model for natural-language inference keeps what it thinks entailed. The model is tiny and random."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from src.errors import UserError
from src.instructions.kg2instruction.entailment import EntailmentFilter, hypothesis
from src.instructions.kg2instruction.facts import Fact
from src.instructions.kg2instruction.vocabulary import load_vocabulary

TEXT = "Ada was born in Brackwater."
RULES = load_vocabulary().rules["Person"]
BORN = Fact((0, 3), (16, 26), "kg", 19, 1, 2, rule=next(rule for rule in RULES if 19 in rule.of))
ALIAS = Fact((0, 3), (16, 26), "alias", None, 1, 1, rule=next(rule for rule in RULES if rule.aliases))


def save_model(folder: Path, labels: list[str]) -> str:
    words = [
        "[PAD]",
        "[UNK]",
        "[SEP]",
        *["Ada", "was", "born", "in", "Brackwater", "The", "place", "of", "birth", "is", "also", "called"],
    ]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_the_label_is_found_by_its_name(tmp_path: Path) -> None:
    labels = ["contradiction", "neutral", "Entailment"]
    model = save_model(tmp_path / "one", labels)
    found = EntailmentFilter(model, device="cpu")
    sentences = [hypothesis(fact, TEXT, "en") for fact in (BORN, ALIAS)]
    got = found.probabilities(TEXT, sentences)
    with torch.inference_mode():
        batch = found.tokenizer([TEXT] * 2, sentences, padding=True, return_tensors="pt")
        expected = found.model(**batch).logits.softmax(-1)[:, 2].tolist()
    assert got == pytest.approx(expected, abs=1e-6)


def test_facts_below_the_threshold_go_and_the_others_carry_their_score(tmp_path: Path) -> None:
    model = save_model(tmp_path / "one", ["entailment", "neutral", "contradiction"])
    low, high = sorted(EntailmentFilter(model, device="cpu").probabilities(TEXT, [
        hypothesis(fact, TEXT, "en") for fact in (BORN, ALIAS)
    ]))  # fmt: skip
    assert low < high
    [kept] = EntailmentFilter(model, threshold=(low + high) / 2, device="cpu").keep(TEXT, [BORN, ALIAS], "en")
    assert kept.nli == pytest.approx(high)


def test_a_model_without_entailment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is entailment"):
        EntailmentFilter(save_model(tmp_path / "one", ["bad", "good"]), device="cpu")


def test_relations_are_said_as_sentences() -> None:
    assert hypothesis(BORN, TEXT, "en") == "The place of birth of Ada is Brackwater."
    assert hypothesis(ALIAS, TEXT, "en") == "Ada is also called Brackwater."
    assert hypothesis(BORN, TEXT, "zh") == "Ada的出生地点是Brackwater。"
