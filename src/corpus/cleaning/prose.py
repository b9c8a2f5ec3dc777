"""Quality of prose by simple measures, in the manner of Gopher, C4 and FineWeb, with some for Chinese.

Every rule has a name and a threshold of its own, and is off without one: the thresholds live in ``configs/cleaning/``,
the measures in `measures` and `repetition`. Texts are judged in batches (see `batch`), which changes nothing but speed.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from datatrove.data import Document

from src.corpus.cleaning.batch import LIMIT, TextBatch
from src.corpus.cleaning.measures import RULES
from src.corpus.cleaning.repetition import Repetition, duplicate_ngram_shares, top_ngram_shares
from src.corpus.steps import CleaningStep, Drop
from src.errors import UserError

Prose = Literal["zh", "en"]

BATCH_CHARACTERS = 1 << 17
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
SETTINGS = (
    *(rule.setting for rule in RULES),
    *(f"max_top_{n}gram" for n in TOP_NGRAMS),
    *(f"max_duplicate_{n}gram" for n in DUPLICATE_NGRAMS),
)


class ProseQuality(CleaningStep):
    """Drops a text at the first rule that it fails.

    Args:
        language: ``zh`` counts repetition in Han characters, ``en`` in words; also chooses the notices looked for.
        repetition_tokens: n-grams are only judged in texts of so many tokens: in short ones a word twice is much.
        judged_characters: a longer text is judged by its beginning. Bounds the memory, and the time for huge texts.
        thresholds: the settings named in `SETTINGS`; None turns a rule off.

    Raises:
        UserError: an unknown language or rule, or a threshold that is no number.
    """

    name = "quality"

    def __init__(
        self,
        language: Prose,
        repetition_tokens: int = 50,
        judged_characters: int = LIMIT,
        **thresholds: float | None,
    ) -> None:
        super().__init__()
        if language not in get_args(Prose):
            raise UserError(f"ProseQuality knows zh and en, not {language!r}: for code use CodeQuality")
        if judged_characters < 1:
            raise UserError(f"judged_characters is {judged_characters}: give 1 or more")
        for setting, threshold in thresholds.items():
            if setting not in SETTINGS:
                raise UserError(f"ProseQuality has no rule {setting!r}: it has {', '.join(SETTINGS)}")
            if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
                raise UserError(f"{setting} is {threshold!r}: give a number, or null to turn the rule off")
        self.language = language
        self.repetition_tokens = repetition_tokens
        self.judged_characters = judged_characters
        self.thresholds = {setting: limit for setting, limit in thresholds.items() if limit is not None}
        self._ahead: tuple[str | None, Drop | None] = (None, None)

    def apply(self, text: str) -> str | Drop:
        judged, verdict = self._ahead
        if judged is not text:
            verdict = self.judge([text])[0]
        return text if verdict is None else verdict

    def judge(self, texts: Sequence[str]) -> list[Drop | None]:
        """Why each of some texts is dropped, or None where it is not."""
        batch = TextBatch(texts, self.language, self.judged_characters)
        verdicts: list[Drop | None] = [None] * len(texts)
        kept = np.ones(len(texts), bool)
        for setting, reason, values in self._measured(batch, kept):
            limit = self.thresholds[setting]
            is_minimum = setting.startswith("min_")
            for index in np.flatnonzero(kept & (values < limit if is_minimum else values > limit)):
                bound = "at least" if is_minimum else "at most"
                verdicts[index] = Drop(reason, f"{values[index]:.4g}, {bound} {limit:g}")
                kept[index] = False
            if not kept.any():
                break
        return verdicts

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        return super().run(self._judged(data), rank, world_size)

    def _measured(self, batch: TextBatch, kept: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """Setting, reason and measured values of every rule that is on, in the order they are tried."""
        for rule in RULES:
            if rule.setting in self.thresholds:
                yield rule.setting, rule.reason, rule.measure(batch)
        tops = self._limits("max_top_{}gram", TOP_NGRAMS)
        duplicates = self._limits("max_duplicate_{}gram", DUPLICATE_NGRAMS)
        if not tops and not duplicates:
            return
        repetition = Repetition(batch)
        kept_long = kept & (repetition.counts() >= self.repetition_tokens)
        if tops:
            for n, shares in top_ngram_shares(repetition, tops, kept_long):
                yield f"max_top_{n}gram", f"top_{n}gram", shares
                kept_long &= kept
        if duplicates:
            for n, shares in duplicate_ngram_shares(repetition, duplicates, kept_long):
                yield f"max_duplicate_{n}gram", f"duplicate_{n}gram", shares
                kept_long &= kept

    def _limits(self, setting: str, sizes: Iterable[int]) -> dict[int, float]:
        limits = {n: self.thresholds.get(setting.format(n)) for n in sizes}
        return {n: limit for n, limit in limits.items() if limit is not None}

    def _judged(self, data: Iterable[Document]) -> Iterator[Document]:
        """The documents as they come, with the verdict on each ready when `apply` asks for it."""
        for documents in _batches(data, self.judged_characters):
            verdicts = self.judge([document.text for document in documents])
            for document, verdict in zip(documents, verdicts, strict=True):
                self._ahead = (document.text, verdict)
                yield document


def _batches(data: Iterable[Document], limit: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in data:
        batch.append(document)
        size += min(len(document.text), limit) + 1
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
