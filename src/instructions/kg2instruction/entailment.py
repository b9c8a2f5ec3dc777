"""A filter that asks a natural-language-inference model whether the text entails each triple.

Any sequence-classification model of transformers will do that has a label called *entailment*, wherever that label
stands. Off by default: it needs a model, and mDeBERTa-v3 trained on XNLI, which suits both languages, 0.5 GB of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from src.errors import UserError
from src.instructions.kg2instruction.facts import Fact
from src.instructions.kg2instruction.vocabulary import Language

# For relations that are nouns, as almost all are; the others have sentences of their own, by English name.
GENERAL = {"en": "The {relation} of {head} is {tail}.", "zh": "{head}的{relation}是{tail}。"}
SENTENCES: dict[str, dict[str, str]] = {
    "located in": {"en": "{head} is located in {tail}.", "zh": "{head}位于{tail}。"},
    "member of": {"en": "{head} is a member of {tail}.", "zh": "{head}属于{tail}。"},
    "alternative name": {"en": "{head} is also called {tail}.", "zh": "{head}又称{tail}。"},
    "of": {"en": "{head} belongs to {tail}.", "zh": "{head}属于{tail}。"},
    "based on": {"en": "{head} is based on {tail}.", "zh": "{head}改编自{tail}。"},
    "named after": {"en": "{head} is named after {tail}.", "zh": "{head}因{tail}得名。"},
    "made from material": {"en": "{head} is made of {tail}.", "zh": "{head}由{tail}制成。"},
    "has use": {"en": "{head} is used for {tail}.", "zh": "{head}用于{tail}。"},
    "has cause": {"en": "{head} is caused by {tail}.", "zh": "{head}由{tail}引起。"},
    "has effect": {"en": "{head} leads to {tail}.", "zh": "{head}导致{tail}。"},
    "pass": {"en": "{head} passes through {tail}.", "zh": "{head}途经{tail}。"},
    "award received": {"en": "{head} received {tail}.", "zh": "{head}获得{tail}。"},
    "achievement": {"en": "{head} received {tail}.", "zh": "{head}获得{tail}。"},
}


class EntailmentFilter:
    """Keeps the facts that a text entails.

    Args:
        model: folder or hub id of a sequence-classification model.
        threshold: least probability of entailment.
        batch_size: hypotheses that the model sees at once.
        device: ``cpu``, ``cuda``, …; None takes a GPU where there is one.

    Raises:
        UserError: the model cannot be loaded or has no label called entailment.
    """

    def __init__(self, model: str, threshold: float = 0.5, batch_size: int = 16, device: str | None = None) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not 0 <= threshold < 1:
            raise UserError(f"entailment.threshold={threshold} is no probability: give a number from 0 to below 1")
        self.threshold, self.batch_size = threshold, batch_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self.model: Any = AutoModelForSequenceClassification.from_pretrained(model).eval().to(self.device)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"entailment.model={model} cannot be loaded ({reason}): give the folder or hub id of a model for "
                "natural-language inference"
            ) from error
        labels: dict[int, str] = self.model.config.id2label
        self.label = next((int(i) for i, name in labels.items() if name.lower() == "entailment"), -1)
        if self.label < 0:
            raise UserError(
                f"{model} has the labels {', '.join(labels.values())} and none is entailment: give a model for "
                "natural-language inference"
            )

    def keep(self, text: str, facts: Sequence[Fact], language: Language) -> list[Fact]:
        """The facts whose sentence the text entails, each with its probability."""
        scored = zip(facts, self.probabilities(text, [hypothesis(f, text, language) for f in facts]), strict=True)
        return [replace(fact, nli=score) for fact, score in scored if score > self.threshold]

    def probabilities(self, premise: str, hypotheses: Sequence[str]) -> list[float]:
        """Of entailment, for each hypothesis; a premise that is too long is cut at its end."""
        import torch

        found: list[float] = []
        for batch in _batches(hypotheses, self.batch_size):
            encoded = self.tokenizer(
                [premise] * len(batch), batch, truncation="only_first", padding=True, return_tensors="pt",
                max_length=min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings),
            ).to(self.device)  # fmt: skip
            with torch.inference_mode():
                found += self.model(**encoded).logits.float().softmax(-1)[:, self.label].tolist()
        return found


def hypothesis(fact: Fact, text: str, language: Language) -> str:
    """The sentence that says a fact."""
    assert fact.rule is not None
    template = SENTENCES.get(fact.rule.names["en"], GENERAL)[language]
    return template.format(
        head=text[slice(*fact.head)], tail=text[slice(*fact.tail)], relation=fact.rule.names[language]
    )


def _batches(rows: Sequence[str], size: int) -> Iterable[list[str]]:
    return (list(rows[start : start + size]) for start in range(0, len(rows), size))
