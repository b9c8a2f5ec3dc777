"""How sure a model is of each item: the probability of its text, token by token, as it wrote it.

A span's score is the product of the probabilities of the tokens that hold any of its characters in the answer; an
item's that of its spans (a relation's of head and tail, an event's of its trigger). They are the model's own
probabilities, before a grammar rules anything out, so that a text that was forced on the model scores low. Scores of
long texts are lower than those of short ones; they rank answers of one model, they are not calibrated.
"""

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from src.extraction.formats.answers import HEAD_KEYS, TAIL_KEYS
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.generation.engine import TokenLogprob

Path = tuple[str | int, ...]

_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\],]', re.DOTALL)


@dataclass(frozen=True)
class Leaf:
    """A text of a JSON answer: where in the object it stands, and its characters between the quotes."""

    path: Path
    text: str
    start: int
    end: int
    is_key: bool = False


def score_items(items: Items, answer: str, logprobs: Sequence[TokenLogprob]) -> Items:
    """The items that were read from an answer, each with its score; None where its text can't be found in the answer.

    Args:
        answer: as the model wrote it.
        logprobs: of its tokens, in order; there may be more at the end, such as the end token.
    """
    tokens = _Tokens.of(answer, logprobs)
    if tokens is None:
        return items
    leaves = list(leaves_of(answer))
    pairs = list(_pairs(leaves))
    return Items(
        tuple(replace(entity, score=_entity(entity, leaves, answer, tokens)) for entity in items.entities),
        tuple(replace(each, score=_relation(each, pairs, leaves, answer, tokens)) for each in items.relations),
        tuple(_event(event, leaves, answer, tokens) for event in items.events),
    )


class _Tokens:
    """Log probabilities by character of the answer."""

    def __init__(self, answer: str, starts: list[int], logprobs: list[float]):
        self._starts, self._logprobs = starts, logprobs
        self._bytes = list(accumulate((len(character.encode()) for character in answer), initial=0))

    @classmethod
    def of(cls, answer: str, logprobs: Sequence[TokenLogprob]) -> "_Tokens | None":
        """None where the tokens do not spell the answer."""
        begins = list(accumulate((len(token.bytes) for token in logprobs), initial=0))[:-1]
        try:
            offset = b"".join(token.bytes for token in logprobs).find(answer.encode())
        except UnicodeEncodeError:  # half a surrogate pair, which no token spells
            return None
        return None if offset < 0 else cls(answer, [b - offset for b in begins], [t.logprob for t in logprobs])

    def probability(self, start: int, end: int) -> float:
        """Of the characters from start to end."""
        first = bisect_right(self._starts, self._bytes[start]) - 1
        stop = bisect_left(self._starts, self._bytes[end])
        return math.exp(min(0.0, sum(self._logprobs[first:stop])))


def leaves_of(answer: str) -> Iterator[Leaf]:
    """All texts of the first JSON object of an answer, keys too, as far as it is JSON; never raises."""
    path: list[str | int] = []
    opened: list[str] = []
    expects_key = False
    begin = answer.find("{")
    for match in _MARKS.finditer(answer, begin) if begin >= 0 else ():
        mark = match[0]
        if mark in ("{", "["):
            opened.append(mark)
            path.append("" if mark == "{" else 0)
            expects_key = mark == "{"
        elif mark == ",":
            expects_key = opened[-1] == "{"
            if not expects_key:
                path[-1] = int(path[-1]) + 1
        elif mark in ("}", "]"):
            opened.pop()
            path.pop()
            expects_key = False
            if not opened:
                return
        elif (text := _decoded(mark)) is None:
            return
        else:
            if expects_key:
                path[-1] = text
            yield Leaf(tuple(path), text, match.start() + 1, match.end() - 1, expects_key)
            expects_key = False


def _decoded(literal: str) -> str | None:
    """The text of a JSON string; None for one without an end, or that is no JSON."""
    try:
        return str(json.loads(literal, strict=False))
    except ValueError:
        return None


def _scored(text: str, found: Leaf | None, answer: str, tokens: _Tokens) -> float | None:
    """Probability of a leaf, or, in answers that are no JSON, of the first place where the text stands."""
    if found is not None:
        return tokens.probability(found.start, found.end)
    start = answer.find(text) if text else -1
    return None if start < 0 else tokens.probability(start, start + len(text))


def _product(*scores: float | None) -> float | None:
    known = [score for score in scores if score is not None]
    return math.prod(known) if len(known) == len(scores) else None


def _is(leaf: Leaf, text: str) -> bool:
    return leaf.text.strip() == text


def _entity(entity: Entity, leaves: list[Leaf], answer: str, tokens: _Tokens) -> float | None:
    """A member of a type's list, or, for records, a key below the type."""
    found = (leaf for leaf in leaves if leaf.path[0] == entity.type and len(leaf.path) == 2 and _is(leaf, entity.text))
    return _scored(entity.text, next(found, None), answer, tokens)


def _pairs(leaves: list[Leaf]) -> Iterator[tuple[str, Leaf, Leaf]]:
    """Relation, head and tail of each member ``{subject, object}``, and of each attribute of a record."""
    members: dict[Path, dict[str, Leaf]] = {}
    keys: dict[Path, Leaf] = {leaf.path: leaf for leaf in leaves if leaf.is_key}
    for leaf in leaves:
        if leaf.is_key:
            continue
        if len(leaf.path) == 3 and isinstance(leaf.path[1], int):
            members.setdefault(leaf.path[:2], {})[str(leaf.path[2])] = leaf
        elif len(leaf.path) >= 3 and leaf.path[:2] in keys:
            yield str(leaf.path[2]), keys[leaf.path[:2]], leaf
    for path, member in members.items():
        head = next((member[key] for key in HEAD_KEYS if key in member), None)
        tail = next((member[key] for key in TAIL_KEYS if key in member), None)
        if head is not None and tail is not None:
            yield str(path[0]), head, tail


def _relation(
    relation: Relation, pairs: list[tuple[str, Leaf, Leaf]], leaves: list[Leaf], answer: str, tokens: _Tokens
) -> float | None:
    for name, head, tail in pairs:
        if name == relation.relation and _is(head, relation.head) and _is(tail, relation.tail):
            return _product(tokens.probability(head.start, head.end), tokens.probability(tail.start, tail.end))
    if leaves:  # JSON of another form
        return None
    return _product(_scored(relation.head, None, answer, tokens), _scored(relation.tail, None, answer, tokens))


def _event(event: Event, leaves: list[Leaf], answer: str, tokens: _Tokens) -> Event:
    """The event and its arguments with scores; an event without a trigger has none."""
    inside = [leaf for leaf in leaves if leaf.path[0] == event.type and not leaf.is_key]
    triggers = [leaf for leaf in inside if _is(leaf, event.trigger) and (len(leaf.path) == 2 or "trigger" in leaf.path)]
    number = triggers[0].path[1] if triggers else None
    own = [leaf for leaf in inside if number is not None and leaf.path[1] == number] or inside

    def scored(argument: Argument) -> Argument:
        named = (leaf for leaf in own if argument.role in leaf.path and _is(leaf, argument.text))
        return replace(argument, score=_scored(argument.text, next(named, None), answer, tokens))

    trigger = _scored(event.trigger, triggers[0] if triggers else None, answer, tokens) if event.trigger else None
    return replace(event, score=trigger, arguments=tuple(map(scored, event.arguments)))
