"""Prompts, targets and subjects as tokens: which ids the model reads, and where the subject ends.

A target follows its prompt as the tokenizer would write both together, so that no token is one that the model never
sees there. The subject's last token is the last one that overlaps its letters; a subject that stands several times in
a prompt is taken where it stands last, since only there the model has read all that comes before the answer.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from src.errors import UserError

LABEL_NONE = -100
WITHOUT_BLANKS = ("CJK ", "HIRAGANA", "KATAKANA", "FULLWIDTH", "IDEOGRAPHIC", "THAI")


@dataclass(frozen=True)
class Encoded:
    """A prompt with its target.

    ids: of both; the target's are the last ``target_size``.
    subject_last: index of the subject's last token; None without a subject.
    """

    ids: tuple[int, ...]
    target_size: int = 0
    subject_last: int | None = None

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: len(self.ids) - self.target_size]

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[len(self.ids) - self.target_size :]

    @property
    def predictors(self) -> range:
        """Positions whose next token is one of the target."""
        return range(len(self.ids) - self.target_size - 1, len(self.ids) - 1)


@dataclass(frozen=True)
class Encoder:
    """Encodes for one tokenizer.

    chat: put prompts into the chat template, as the user's message; the target then is the assistant's answer.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: bool = False

    def __post_init__(self) -> None:
        if self.chat and not self.tokenizer.chat_template:
            raise UserError("the model has no chat template: leave chat out")

    def encode(self, prompt: str, target: str | None = None, subject: str | None = None) -> Encoded:
        """A prompt as the model reads it, and what is to follow.

        Raises:
            UserError: the subject does not stand in the prompt, or the target has no tokens.
        """
        text, start = self._framed(prompt)
        ids, offsets = self._tokens(text)
        last = None
        if subject is not None:
            place = prompt.rfind(subject)
            if place < 0 or not subject:
                raise UserError(f"the subject '{subject}' does not stand in the prompt '{prompt}'")
            last = last_overlapping(offsets, start + place, start + place + len(subject))
        if target is None:
            return Encoded(tuple(ids), 0, last)
        follows = self._following(text, ids, target)
        return Encoded((*ids, *follows), len(follows), last)

    def _framed(self, prompt: str) -> tuple[str, int]:
        """The text that is encoded, and where the prompt begins in it."""
        if not self.chat:
            return prompt, 0
        messages = [{"role": "user", "content": prompt}]
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        start = text.rfind(prompt)
        if start < 0:
            raise UserError("the chat template changes the prompt: leave chat out")
        return text, start

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self.tokenizer(text, add_special_tokens=not self.chat, return_offsets_mapping=True)
        ids = list(found["input_ids"])
        end = self.tokenizer.eos_token_id
        if len(ids) > 1 and ids[-1] == end and not text.endswith(str(self.tokenizer.eos_token)):
            ids.pop()  # of tokenizers that end every text, such as T5's
        return ids, [(int(start), int(stop)) for start, stop in found["offset_mapping"]][: len(ids)]

    def _following(self, text: str, ids: Sequence[int], target: str) -> list[int]:
        """The tokens of a target after a text."""
        joined = target if self.chat else target_after(text, target)
        both, _ = self._tokens(text + joined)
        if both[: len(ids)] == list(ids) and len(both) > len(ids):
            return both[len(ids) :]
        # the border would be inside a token: the model reads the prompt as it is and says the target on its own
        alone = self.tokenizer(joined, add_special_tokens=False)["input_ids"]
        anchored = self._after_anchor(joined)
        follows = list(anchored if anchored is not None else alone)
        if not follows:
            raise UserError(f"the target '{target}' has no tokens")
        return follows

    def _after_anchor(self, joined: str) -> list[int] | None:
        """Tokens of a text after a letter that merges with nothing, without what a tokenizer puts before texts."""
        anchor = self._anchor
        with_anchor = self.tokenizer("\n" + joined, add_special_tokens=False)["input_ids"]
        return with_anchor[len(anchor) :] if with_anchor[: len(anchor)] == anchor else None

    @cached_property
    def _anchor(self) -> list[int]:
        return list(self.tokenizer("\n", add_special_tokens=False)["input_ids"])


def target_after(prompt: str, target: str) -> str:
    """The target with a blank before it, where prompt and language have one there."""
    target = target.strip()
    if not prompt or prompt[-1].isspace() or _is_without_blanks(prompt[-1]) or _is_without_blanks(target[:1]):
        return target
    return " " + target


def _is_without_blanks(letter: str) -> bool:
    """Whether words of the letter's script stand beside each other without blanks."""
    return bool(letter) and unicodedata.name(letter, "").startswith(WITHOUT_BLANKS)


def last_overlapping(offsets: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Index of the last token that holds a letter of ``text[start:end]``. Raises `UserError` where none does."""
    found = [index for index, (first, last) in enumerate(offsets) if first < end and last > start]
    if not found:
        raise UserError("the tokenizer gives no places of its tokens in the text: only fast tokenizers do")
    return found[-1]
