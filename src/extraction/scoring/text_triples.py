"""Triples out of a model's text, and how many of them are right.

The text form is KnowLM-13B-IE's: ``(head,relation,tail)``, one a line or one after another. Reading is tolerant of what
models do around a triple (list marks, full-width punctuation, spaces, an introduction, a cut-off last line); comparing
is strict: the three fields must be equal as text after Unicode NFKC, with outer spaces and book-title marks removed and
inner spaces made single. Letter case counts. ``NAN`` and its like stand for "none" and are dropped.

Scores are micro-averaged over records, each record's answer taken as a set (no credit or blame for repeats):
precision = right / found, recall = right / expected, F1 = 2PR/(P+R), each 0 where its denominator is 0.
A record is an *exact match* when its two sets are equal, whatever the order and whatever stands around the triples.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from src.errors import UserError
from src.extraction.formats.answers import is_none
from src.knowledge.triples import Triple

__all__ = ["Scores", "Triple", "exact_match", "parse_triples", "score", "score_by", "score_sets"]

MAX_TRIPLE_CHARS = 400


@dataclass(frozen=True)
class Scores:
    """Micro-averaged scores in [0, 1] and the counts behind them."""

    precision: float
    recall: float
    f1: float
    exact_match: float
    records: int
    expected: int
    found: int
    right: int

    def as_dict(self) -> dict[str, float]:
        """The fields as plain numbers, for JSON."""
        return asdict(self)


def parse_triples(text: str, relations: Iterable[str] | None = None) -> set[Triple]:
    """The triples a text states in the form ``(head,relation,tail)``; anything else in it is passed over.

    An entity may hold commas: such a triple is cut around a relation of ``relations`` where one of them is a field of
    it, else its first field takes the surplus. Brackets inside an entity must be balanced. Never raises.
    """
    known = {_normal(relation) for relation in relations or ()}
    found = set()
    for inside in _brackets(unicodedata.normalize("NFKC", text)):
        fields = [_normal(field) for field in re.split("[,、]" if "," not in inside else ",", inside)]
        if len(fields) < 3:
            continue
        middle = next((i for i in range(1, len(fields) - 1) if fields[i] in known), len(fields) - 2)
        triple = Triple(",".join(fields[:middle]), fields[middle], ",".join(fields[middle + 1 :]))
        if not any(map(is_none, (triple.head, triple.relation, triple.tail))):
            found.add(triple)
    return found


def _brackets(text: str) -> Iterable[str]:
    """What stands inside each outermost pair of round brackets; an unclosed one is passed over, and so is its line."""
    for line in text.splitlines():
        depth, start = 0, 0
        for position, letter in enumerate(line):
            if letter == "(":
                depth += 1
                start = position + 1 if depth == 1 else start
            elif letter == ")" and depth:
                depth -= 1
                if depth == 0 and position - start <= MAX_TRIPLE_CHARS:
                    yield line[start:position]


def _normal(field: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", field).strip(" \t'\"“”‘’《》").split())


def score(predicted: Sequence[str], expected: Sequence[str]) -> Scores:
    """Compare answers with references, text by text; UserError where the two are not of one length."""
    if len(predicted) != len(expected):
        raise UserError(f"{len(predicted)} answers can't be compared with {len(expected)} references: give as many")
    pairs = []
    for answer, reference in zip(predicted, expected, strict=True):
        gold = parse_triples(reference)
        pairs.append((parse_triples(answer, {triple.relation for triple in gold}), gold))
    return score_sets(pairs)


def score_sets(pairs: Sequence[tuple[set[Triple], set[Triple]]]) -> Scores:
    """Scores of (found, expected) pairs of triple sets, one pair a record."""
    found = sum(len(answer) for answer, _ in pairs)
    expected = sum(len(gold) for _, gold in pairs)
    right = sum(len(answer & gold) for answer, gold in pairs)
    precision, recall = _share(right, found), _share(right, expected)
    return Scores(
        precision=precision,
        recall=recall,
        f1=_share(2 * precision * recall, precision + recall),
        exact_match=_share(sum(answer == gold for answer, gold in pairs), len(pairs)),
        records=len(pairs),
        expected=expected,
        found=found,
        right=right,
    )


def score_by(groups: Sequence[str], predicted: Sequence[str], expected: Sequence[str]) -> dict[str, Scores]:
    """Scores of all records under ``all``, and of the records of each group (a language, a source) under its name."""
    if len(groups) != len(expected):
        raise UserError(f"{len(groups)} group names for {len(expected)} records: give as many")
    result = {"all": score(predicted, expected)}
    for name in sorted(set(groups)):
        chosen = [index for index, group in enumerate(groups) if group == name]
        result[name] = score([predicted[i] for i in chosen], [expected[i] for i in chosen])
    return result


def exact_match(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Share of answers whose text is the reference, outer space aside: for tasks whose answers are not triples."""
    if len(predicted) != len(expected):
        raise UserError(f"{len(predicted)} answers can't be compared with {len(expected)} references: give as many")
    return _share(sum(a.strip() == b.strip() for a, b in zip(predicted, expected, strict=True)), len(expected))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
