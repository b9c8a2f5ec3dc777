"""Texts that the model itself writes, to stand before a prompt: an edit should hold wherever the prompt stands.

ROME and MEMIT average keys and train values over the bare prompt and over the prompt after such texts (arXiv
2202.05262, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEEDS = {"en": ("The", "Therefore", "Because", "I", "You"), "zh": ("这", "因此", "因为", "我", "你")}
ENDS = {"en": ". ", "zh": "。"}
TOP_K = 5
BARE = ""


@dataclass(frozen=True)
class Contexts:
    """What is put before prompts: nothing first, then texts of the model's.

    prefixes: by language, each with its end.
    """

    prefixes: dict[str, tuple[str, ...]]

    def of(self, prompt: str) -> tuple[str, ...]:
        """The prompt alone, and after each text in its language."""
        language = "zh" if any("\u4e00" <= letter <= "\u9fff" for letter in prompt) else "en"
        return tuple(prefix + prompt for prefix in (BARE, *self.prefixes.get(language, ())))


def write_contexts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int] = (10,),
    languages: Sequence[str] = ("en", "zh"),
    seed: int = 0,
) -> Contexts:
    """One text for each seed word and length; the same ones for the same model and seed.

    Args:
        lengths: tokens that are written.
        seed: of the draw; the caller's random state stays as it is.
    """
    generate: Any = model.generate
    device: Any = model.get_input_embeddings().weight.device
    prefixes: dict[str, tuple[str, ...]] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for language in languages:
            found: list[str] = []
            for length in lengths:
                for word in SEEDS[language]:
                    given = tokenizer(word, return_tensors="pt").to(device)
                    written = generate(
                        input_ids=given["input_ids"],
                        attention_mask=given["attention_mask"],
                        do_sample=True,
                        top_k=TOP_K,
                        max_new_tokens=length,
                        min_new_tokens=length,
                        pad_token_id=tokenizer.pad_token_id,
                    )
                    text = str(tokenizer.decode(written[0], skip_special_tokens=True))
                    found.append(" ".join(text.replace("\ufffd", "").split()) + ENDS[language])
            prefixes[language] = tuple(dict.fromkeys(found))
    return Contexts(prefixes)
