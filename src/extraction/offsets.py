"""Where items stand in their text: models and most data sets name the words, not the places.

A text is looked for as it is and, where it is not found, folded: Unicode NFKC, and white space left out unless it
parts two words of a script that writes spaces. The place is always one of the text as given.

Of several places one is taken that no other mention has, that does not cut a word, and that comes first. The ends of a
relation are taken where they are nearest to each other, and so are an event's trigger and its arguments.
"""

import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from src.extraction.formats.format import Note
from src.extraction.items import Argument, Entity, Event, Items, Relation, Span

MAX_PLACES = 500  # of one text that are compared with those of another


def place(items: Items, text: str, drop_missing: bool = False) -> tuple[Items, Counter[Note]]:
    """Give spans to the items that have none.

    Args:
        drop_missing: leave out what the text does not hold: an entity, a relation with such an end, an event with such
            a trigger, an argument. Else it is kept without a span.

    Returns:
        the items in their order, and how many of their texts are `Note.NOT_IN_TEXT`, once for each end and argument.
    """
    places = _Places(text)
    notes: Counter[Note] = Counter()
    placed = Items(
        tuple(_entities(items.entities, places)),
        tuple(_relation(relation, places) for relation in items.relations),
        tuple(_events(items.events, places)),
    )
    missing = [_is_missing(each, notes) for kind in (placed.entities, placed.relations, placed.events) for each in kind]
    if not drop_missing or not notes:
        return placed, notes
    lost = iter(missing)
    return (
        Items(
            tuple(entity for entity in placed.entities if not next(lost)),
            tuple(relation for relation in placed.relations if not next(lost)),
            tuple(_with_found(event) for event in placed.events if not next(lost)),
        ),
        notes,
    )


def fold(text: str) -> str:
    """A text with what differs between equal spellings taken out: Unicode NFKC, needless white space."""
    return _fold(text)[0]


def _is_missing(item: Entity | Relation | Event, notes: Counter[Note]) -> bool:
    """Whether the item itself is not in the text; counts it and its arguments."""
    if isinstance(item, Relation):
        spans = [item.head_span, item.tail_span]
    elif isinstance(item, Event):
        spans = [item.span] if item.trigger else []
        notes[Note.NOT_IN_TEXT] += sum(argument.span is None for argument in item.arguments)
    else:
        spans = [item.span]
    notes[Note.NOT_IN_TEXT] += spans.count(None)
    if not notes[Note.NOT_IN_TEXT]:
        del notes[Note.NOT_IN_TEXT]
    nothing_left = isinstance(item, Event) and not item.trigger and all(a.span is None for a in item.arguments)
    return None in spans or nothing_left


def _with_found(event: Event) -> Event:
    return replace(event, arguments=tuple(argument for argument in event.arguments if argument.span is not None))


class _Places:
    """All places of each text asked for, and which of them are taken."""

    def __init__(self, text: str):
        self.text = text
        self.taken = bytearray(len(text))
        self._found: dict[str, list[Span]] = {}
        self._folded: tuple[str, list[int], list[int]] | None = None

    def of(self, text: str) -> list[Span]:
        """Places of a text that do not overlap, from the left; none that cuts a word where others do not."""
        if text not in self._found:
            places = list(_occurrences(self.text, text)) or self._in_folded(text)
            whole = [span for span in places if self._is_whole(span)]
            self._found[text] = whole or places
        return self._found[text]

    def take(self, span: Span) -> None:
        self.taken[span.start : span.end] = b"\1" * (span.end - span.start)

    def is_free(self, span: Span) -> bool:
        return self.taken.find(1, span.start, span.end) < 0

    def _in_folded(self, text: str) -> list[Span]:
        if self._folded is None:
            self._folded = _fold(self.text)
        folded, starts, ends = self._folded
        wanted = fold(text).strip()
        found = (Span(starts[s], ends[e - 1]) for s, e in _occurrences(folded, wanted))
        # a place that begins or ends inside what one character became is more than what was asked for
        return [span for span in found if fold(self.text[span.start : span.end]) == wanted]

    def _is_whole(self, span: Span) -> bool:
        text = self.text
        return not (
            (span.start > 0 and _is_spaced(text[span.start - 1]) and _is_spaced(text[span.start]))
            or (span.end < len(text) and _is_spaced(text[span.end - 1]) and _is_spaced(text[span.end]))
        )


def _occurrences(text: str, wanted: str) -> Iterable[Span]:
    position = text.find(wanted) if wanted.strip() else -1
    while position >= 0:
        yield Span(position, position + len(wanted))
        position = text.find(wanted, position + len(wanted))


def _is_spaced(letter: str) -> bool:
    """Whether a character is part of words that stand between spaces, as those of Chinese and Japanese do not."""
    if letter < "\u2e80":
        return letter.isalnum()
    return "\uac00" <= letter <= "\ud7a3"  # Korean


def _fold(text: str) -> tuple[str, list[int], list[int]]:
    """The folded text, and for each of its characters where what became it starts and ends in the text."""
    letters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    gap = False
    for start, end in _clusters(text):
        piece = text[start:end]
        for letter in piece if piece.isascii() else unicodedata.normalize("NFKC", piece):
            if letter.isspace():
                gap = True
                continue
            is_mark = unicodedata.combining(letter)  # which would join what stands before the gap
            if gap and letters and (is_mark or (_is_spaced(letters[-1]) and _is_spaced(letter))):
                letters.append(" ")
                starts.append(ends[-1])
                ends.append(start)
            gap = False
            letters.append(letter)
            starts.append(start)
            ends.append(end)
    return "".join(letters), starts, ends


def _clusters(text: str) -> Iterable[tuple[int, int]]:
    """Runs that NFKC may join into one character: a letter with the marks that follow it."""
    start = 0
    for position in range(1, len(text)):
        letter = text[position]
        is_jamo, is_half_width = "\u1160" <= letter <= "\u11ff", letter in "\uff9e\uff9f"
        if letter < "\u0300" or not (unicodedata.combining(letter) or is_jamo or is_half_width):
            yield start, position
            start = position
    if text:
        yield start, len(text)


def _entities(entities: Sequence[Entity], places: _Places) -> Iterable[Entity]:
    """Longer texts first, so that "Paris" does not take the one in "Paris Hilton"."""
    mentions: dict[str, list[int]] = {}
    for number, entity in enumerate(entities):
        if entity.span is not None:
            places.take(entity.span)
        else:
            mentions.setdefault(entity.text, []).append(number)
    spans: dict[int, Span] = {}
    for text, numbers in sorted(mentions.items(), key=lambda each: -len(each[0])):
        best_first = sorted(places.of(text), key=lambda span: not places.is_free(span))
        chosen = sorted(best_first[: len(numbers)])
        if not chosen:
            continue
        for order, number in enumerate(numbers):
            spans[number] = chosen[min(order, len(chosen) - 1)]
        for span in chosen:
            places.take(span)
    for number, entity in enumerate(entities):
        yield replace(entity, span=spans[number]) if number in spans else entity


def _relation(relation: Relation, places: _Places) -> Relation:
    heads = [relation.head_span] if relation.head_span else places.of(relation.head)
    tails = [relation.tail_span] if relation.tail_span else places.of(relation.tail)
    if not heads or not tails:
        return replace(relation, head_span=next(iter(heads), None), tail_span=next(iter(tails), None))
    if len(heads) <= len(tails):
        pairs = ((head, tail) for head in heads[:MAX_PLACES] for tail in _around(head, tails))
    else:
        pairs = ((head, tail) for tail in tails[:MAX_PLACES] for head in _around(tail, heads))
    head, tail = min(pairs, key=lambda pair: (_distance(*pair), pair))
    return replace(relation, head_span=head, tail_span=tail)


def _around(span: Span, others: Sequence[Span]) -> Sequence[Span]:
    """Those of sorted places that can be nearest to a span: the last before it, what overlaps, the first after it."""
    index = bisect_left(others, span)
    return others[max(0, index - 2) : index + 3]


def _distance(one: Span, other: Span) -> tuple[bool, int]:
    """Whether two places overlap, and the characters between them."""
    gap = max(one.start - other.end, other.start - one.end)
    return gap < 0, max(gap, 0)


def _events(events: Sequence[Event], places: _Places) -> Iterable[Event]:
    used: dict[tuple[str, str], set[Span]] = {}
    for event in events:
        taken = used.setdefault((event.type, event.trigger), set())
        trigger = event.span or _trigger(event, places, taken)
        if trigger is not None:
            taken.add(trigger)
        first = next((found[0] for each in event.arguments if (found := places.of(each.text))), None)
        arguments = tuple(_argument(argument, trigger or first, places) for argument in event.arguments)
        yield replace(event, span=trigger, arguments=arguments)


def _trigger(event: Event, places: _Places, taken: set[Span]) -> Span | None:
    """The place of a trigger that no event like it has and that is nearest to the arguments."""
    around = [[argument.span] if argument.span else places.of(argument.text) for argument in event.arguments]
    found = places.of(event.trigger)
    triggers: Collection[Span] = found
    if len(found) > MAX_PLACES:
        rarest = min((each for each in around if each), key=len, default=[])
        near = {span for each in rarest[:MAX_PLACES] for span in _around(each, found)}
        triggers = near - taken or [span for span in found if span not in taken][:MAX_PLACES] or found[:MAX_PLACES]

    def remoteness(span: Span) -> tuple[bool, int, Span]:
        near = (min(_distance(span, each)[1] for each in _around(span, of)) for of in around if of)
        return span in taken, sum(near), span

    return min(triggers, key=remoteness, default=None)


def _argument(argument: Argument, anchor: Span | None, places: _Places) -> Argument:
    if argument.span is not None or anchor is None or not (found := places.of(argument.text)):
        return argument
    return replace(argument, span=min(_around(anchor, found), key=lambda span: (_distance(anchor, span), span)))
