"""A page as passages: the paragraphs that become texts of the data set, with their sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from src.corpus.sentences import sentence_ends
from src.errors import UserError
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikitext import FORMULA

ENDS = (*".!?。！？…", '."', ".”", "。”", "。」", '!"', '?"', ".)", "。）")
# What the parser of wikitext left as it was written, because something is not closed; beginnings of rows of a table.
MARKUP = re.compile(r"^[|!{]|</?ref|\{\{|\}\}|\[\[|\]\]|''")
MIN_CHARACTERS = {"en": 60, "zh": 20}
MAX_CHARACTERS = {"en": 1500, "zh": 512}


@dataclass(frozen=True)
class Limits:
    """How long a passage may be, in characters; None: what suits the language."""

    min_characters: int | None = None
    max_characters: int | None = None

    def of(self, language: Language) -> tuple[int, int]:
        """Least and most. Raises `UserError` where nothing fits between them."""
        least = MIN_CHARACTERS[language] if self.min_characters is None else self.min_characters
        most = MAX_CHARACTERS[language] if self.max_characters is None else self.max_characters
        if not 0 <= least < most:
            raise UserError(f"min_characters={least} and max_characters={most} leave no texts: give a wider range")
        return least, most


@dataclass(frozen=True)
class Passage:
    """A stretch of a page in characters; ``sentences``: the ends of its sentences, counted from its start."""

    start: int
    end: int
    sentences: tuple[int, ...]


def passages(text: str, language: Language, limits: Limits) -> Iterator[Passage | str]:
    """The passages of a page in order, and for every paragraph that gives none the reason why."""
    least, most = limits.of(language)
    start = 0
    for line in text.splitlines(keepends=True):
        body = line.strip()
        begin = start + len(line) - len(line.lstrip())
        start += len(line)
        if not body:
            continue
        if reason := _unfit(body, least):
            yield reason
            continue
        yield from _cut(body, begin, language, least, most)


def sentences(text: str, language: Language) -> list[int]:
    """Where the sentences of a text end, in characters."""
    raw = text.encode("utf-8")
    ends, done, size = [], 0, 0
    for end in sentence_ends(raw, language).tolist():
        size += len(raw[done:end].decode("utf-8"))
        done = end
        ends.append(size)
    return ends


def _unfit(body: str, least: int) -> str | None:
    if body.startswith("* "):
        return "list_item"
    if FORMULA in body:
        return "formula"
    if MARKUP.search(body):
        return "markup"
    if len(body) < least:
        return "too_short"
    return None if body.endswith(ENDS) else "no_sentence"


def _cut(body: str, begin: int, language: Language, least: int, most: int) -> Iterator[Passage | str]:
    """As many whole sentences at a time as fit; a sentence that is longer than a passage may be is left out."""
    start = 0
    taken: list[int] = []
    before = 0
    for end in sentences(body, language):
        if taken and end - start > most:
            yield _passage(body, begin, start, taken, least)
            start, taken = before, []
        before = end
        if end - start > most:
            yield "too_long_sentence"
            start = end
            continue
        taken.append(end)
    if taken:
        yield _passage(body, begin, start, taken, least)


def _passage(body: str, begin: int, start: int, ends: list[int], least: int) -> Passage | str:
    text = body[start : ends[-1]]
    lead, size = len(text) - len(text.lstrip()), len(text.rstrip())
    if size - lead < least:
        return "too_short"
    cuts = tuple(min(end - start, size) - lead for end in ends)
    return Passage(begin + start + lead, begin + start + size, cuts)
