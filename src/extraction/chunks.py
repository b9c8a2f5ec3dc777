"""A long text as pieces that a model can read: whole sentences, as many as fit, with a little overlap.

Pieces know their place, so that what is found in one of them has a place in the document. A sentence longer than the
budget is cut at a line end, else after a comma or its like, else at a blank, else between two characters.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from src.corpus.sentences import sentence_ends
from src.errors import UserError
from src.extraction.schema import Language
from src.knowledge.triples import Span

CountTokens = Callable[[Sequence[str]], list[int]]  # of each text, as it stands in a prompt

MIN_CHUNK_TOKENS = 16
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
# Places at which a long sentence may be cut, the best first.
_CUTS = [re.compile(rule) for rule in (r"\n+", r"[,;:，；：、]+[\s\"'”’」』)）]*", r"\s+", r"(?s:.)")]


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: ``text == document.text[start:end]``, in characters.

    tokens: about so many, as they were counted.
    """

    number: int
    start: int
    end: int
    text: str
    tokens: int


def language_of(text: str) -> Language:
    """``zh`` where one letter in five or more is a Chinese character."""
    letters = sum(character.isalpha() for character in text)
    return "zh" if 5 * len(_CHINESE.findall(text)) >= max(letters, 1) else "en"


def sentences(text: str) -> list[Span]:
    """The sentences of a text one after another, without gaps, as character offsets."""
    raw = text.encode("utf-8")
    ends, start, done = [0], 0, 0
    for end in sentence_ends(raw, language_of(text)).tolist():
        done += len(raw[start:end].decode("utf-8"))
        ends.append(done)
        start = end
    return [Span(*pair) for pair in pairwise(ends)]


def chunks(text: str, max_tokens: int, count: CountTokens, overlap: int = 1) -> list[Chunk]:
    """Cut a text into chunks of at most ``max_tokens``, each of whole sentences where one fits.

    Blank around a chunk is left out of it; every other character is in at least one.

    Args:
        count: tokens of texts; a chunk counts as much as its sentences together.
        overlap: sentences that a chunk shares with the one before, fewer where they leave no room for a new one.

    Raises:
        UserError: a budget too small to be of use.
    """
    if max_tokens < MIN_CHUNK_TOKENS:
        raise UserError(f"max_chunk_tokens is {max_tokens}: a chunk needs {MIN_CHUNK_TOKENS} tokens or more")
    if overlap < 0:
        raise UserError(f"overlap is {overlap}: it must be 0 or more sentences")
    pieces, sizes = _fitting(text, sentences(text), max_tokens, count)
    found: list[Chunk] = []
    first = done = 0  # pieces: the first of the chunk, and how many are in one already
    while done < len(pieces):
        end, tokens = first, 0
        while end < len(pieces) and (end == first or tokens + sizes[end] <= max_tokens):
            tokens += sizes[end]
            end += 1
        if end == done:  # the overlap leaves no room
            first += 1
            continue
        span = _stripped(text, pieces[first].start, pieces[end - 1].end)
        if span.start < span.end:
            found.append(Chunk(len(found), *span, text[span.start : span.end], tokens))
        done, first = end, max(end - overlap, first + 1)
    return found


def _stripped(text: str, start: int, end: int) -> Span:
    inside = text[start:end]
    return Span(end - len(inside.lstrip()), start + len(inside.rstrip())) if inside.strip() else Span(start, start)


def _fitting(text: str, spans: list[Span], most: int, count: CountTokens) -> tuple[list[Span], list[int]]:
    """The spans with their tokens, those that are too long cut."""
    pieces: list[Span] = []
    sizes: list[int] = []
    for span, size in zip(spans, count([text[span.start : span.end] for span in spans]) if spans else [], strict=True):
        parts, part_sizes = ([span], [size]) if size <= most else _cut(text, span, most, count)
        pieces += parts
        sizes += part_sizes
    return pieces, sizes


def _cut(text: str, span: Span, most: int, count: CountTokens, level: int = 0) -> tuple[list[Span], list[int]]:
    """A span as parts that fit, as few and as full as the places of this level allow."""
    ends = [match.end() for match in _CUTS[level].finditer(text, span.start, span.end)]
    borders = [span.start, *(end for end in ends if end < span.end), span.end]
    parts = [Span(*pair) for pair in pairwise(borders)]
    sizes = count([text[part.start : part.end] for part in parts])
    pieces: list[Span] = []
    tokens: list[int] = []
    for part, size in zip(parts, sizes, strict=True):
        if size > most and level + 1 < len(_CUTS):
            smaller, their_sizes = _cut(text, part, most, count, level + 1)
            pieces += smaller
            tokens += their_sizes
        elif pieces and pieces[-1].start >= span.start and tokens[-1] + size <= most:
            pieces[-1] = Span(pieces[-1].start, part.end)
            tokens[-1] += size
        else:
            pieces.append(part)
            tokens.append(size)
    return pieces, tokens
