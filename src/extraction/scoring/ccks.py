"""The score of CCKS-2023's contest "instruction-driven adaptive knowledge graph construction" (Tianchi 532080).

An answer is a text, and the triples in it: ``(head,relation,tail)(head,relation,tail)``. The score adds the F1 of the
triples, over all records together, and the mean ROUGE-2 of the texts (Lin 2004), by weights; the organisers' weights
are not known to us, so they are a parameter.

ROUGE-2 here counts each pair of neighbouring tokens once, as the Python packages ``rouge`` and ``rouge-chinese`` of the
contest's code do; F is the harmonic mean. English is put in lower case without punctuation and articles and split at
spaces. Chinese is split into characters, which needs no dictionary; the contest's code splits it into words by jieba,
whose last release is of 2020. Give ``tokens=jieba.lcut`` for its numbers. Equal texts score 1 however short they are,
and so do two empty ones.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from src.errors import UserError
from src.extraction.scoring.scoring import Counts
from src.extraction.scoring.text_triples import parse_triples

Tokens = Callable[[str], Sequence[str]]
Fields = tuple[str, str, str]  # head, relation, tail

_HAN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_TOKEN = re.compile(rf"{_HAN.pattern}|(?:(?!{_HAN.pattern})[^\W_])+|[^\w\s]")
_PUNCTUATION = re.compile(r"""[!"#$%&()*+,\-./:;<=>?@\[\]\\^`{|}~_']""")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class CCKSAnswer:
    """The text of an answer and the triples it states; None: read them from the text."""

    output: str
    triples: Sequence[Fields] | None = None

    def facts(self) -> set[Fields]:
        if self.triples is None:
            return {(t.head, t.relation, t.tail) for t in parse_triples(self.output)}
        return {(head.strip(), relation.strip(), tail.strip()) for head, relation, tail in self.triples}


@dataclass(frozen=True)
class CCKSScore:
    """In percent. ``triples``: counts behind ``f1``."""

    score: float
    f1: float
    rouge_2: float
    triples: Counts
    records: int


def ccks_score(
    predicted: Sequence[CCKSAnswer],
    expected: Sequence[CCKSAnswer],
    weights: tuple[float, float] = (0.5, 0.5),
    tokens: Tokens | None = None,
) -> CCKSScore:
    """Score answers beside references, record by record.

    Args:
        weights: of the F1 and of ROUGE-2; they are divided by their sum.
        tokens: splits a text; None: as this module says.

    Raises:
        UserError: not as many answers as references, or weights that are negative or all 0.
    """
    if len(predicted) != len(expected):
        raise UserError(f"{len(predicted)} answers can't be compared with {len(expected)} references: give as many")
    if min(weights) < 0 or not sum(weights):
        raise UserError(f"the weights of F1 and ROUGE-2 are {weights}: give two that are not negative, one above 0")
    counts, rouge = Counts(), 0.0
    for answer, reference in zip(predicted, expected, strict=True):
        found, right = answer.facts(), reference.facts()
        counts += Counts(len(found & right), len(found), len(right))
        rouge += rouge_2(answer.output, reference.output, tokens)
    mean = 100 * rouge / len(expected) if expected else 0.0
    total = (weights[0] * counts.f1 + weights[1] * mean) / sum(weights)
    return CCKSScore(total, counts.f1, mean, counts, len(expected))


def rouge_2(text: str, reference: str, tokens: Tokens | None = None) -> float:
    """ROUGE-2 F of a text, in [0, 1]."""
    one, other = text.strip(), reference.strip()
    if one == other or not (one and other):
        return float(one == other)
    split = tokens or split_tokens
    found, right = set(pairwise(split(one))), set(pairwise(split(other)))
    return 2 * len(found & right) / (len(found) + len(right)) if found and right else 0.0


def split_tokens(text: str) -> list[str]:
    """Characters where there are Chinese ones (words, numbers and marks stay whole); else the words of English."""
    if _HAN.search(text):
        return _TOKEN.findall(text)
    return _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.lower())).split()
