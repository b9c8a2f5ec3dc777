"""CoNLL files: a token and its tag on each line, an empty line after each sentence.

The first column is the token, the last the tag. Tags are ``O`` or a mark and a type: B and I (BIO, and IOB, where a
sequence may open with I), E and S (BIOES), M (BMES), L, U and W (BILOU, BMEWO). Tokens are joined by spaces, or by
nothing where they are mostly single characters, as in Chinese files.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.extraction.items import Entity, Items, Sample, Span
from src.extraction.readers.rejects import RejectedError, Rejects

TAG = re.compile(r"O|[BIESMLUW][-_].+")
OPENS, ENDS = set("BSUW"), set("ESLUW")
LONGEST_CHARACTER_TOKEN = 1.3  # mean length of tokens up to which they are characters and not words
PROBED_TOKENS = 5000

Sentence = list[tuple[str, str]]  # tokens with their tags


def looks_like_columns(lines: Sequence[str]) -> bool:
    """Whether most of some lines are a token and a tag."""
    full = [line for line in lines if line.strip()]
    tagged = [line for line in full if len(fields := _fields(line)) > 1 and TAG.fullmatch(fields[-1])]
    return len(tagged) > len(full) / 2


def read_columns(path: Path, source: str, rejects: Rejects) -> Iterator[tuple[int, Sample]]:
    """The sentences of a file with the line that each begins in."""
    sentences = list(_sentences(path, rejects))
    tokens = [token for _, sentence in sentences for token, _ in sentence][:PROBED_TOKENS]
    are_characters = sum(map(len, tokens)) <= LONGEST_CHARACTER_TOKEN * len(tokens)
    for line, sentence in sentences:
        yield line, _sample(sentence, "" if are_characters else " ", f"{source}-{line}", source)


def _sentences(path: Path, rejects: Rejects) -> Iterator[tuple[int, Sentence]]:
    sentence: Sentence = []
    start = 1
    bad: RejectedError | None = None
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate([*stream, "\n"], 1):
            fields = _fields(line)
            if fields and not line.startswith("-DOCSTART-"):
                if len(fields) > 1 and TAG.fullmatch(fields[-1]):
                    sentence.append((fields[0], fields[-1]))
                elif not (line.startswith("#") and not sentence):  # a comment before a sentence
                    bad = bad or RejectedError("a line without a tag", f"line {number}: {line.strip()[:80]}")
                continue
            if bad is not None:
                rejects.add(path, start, bad, sentence)
            elif sentence:
                yield start, sentence
            sentence, bad, start = [], None, number + 1


def _fields(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t") if "\t" in line else line.split()


def _sample(sentence: Sentence, joint: str, name: str, source: str) -> Sample:
    text = joint.join(token for token, _ in sentence)
    entities: list[Entity] = []
    start = position = 0
    open_type = ""

    def close(end: int) -> None:
        if open_type:
            entities.append(Entity(text[start:end], open_type, Span(start, end)))

    end = 0
    for token, tag in sentence:
        mark, kind = tag[0], tag[2:]
        if mark in OPENS or kind != open_type:
            close(end)
            start, open_type = position, kind
        end = position + len(token)
        if mark in ENDS:
            close(end)
            open_type = ""
        position = end + len(joint)
    close(end)
    return Sample(name, text, Items(tuple(entities)), source)
