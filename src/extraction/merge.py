"""What the requests of one document found, as one: batches of a schema, chunks of a text, permutations of an order.

- Batches of one event type's roles become one event again: those with the same trigger at the same place.
- Chunks: an entity or a relation that several of them state is one item, with its first place. Events are single
  happenings, so two with the same trigger word at two places stay two; what two chunks share is found at one place and
  becomes one.
- Permutations of the schema's order vote: all that any found, or what more than half found.

Two types for one span are kept both, and reported as a conflict: which of them is right is not for a merge to say.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from src.extraction.items import Argument, Entity, Event, Items, Relation, Span

Vote = Literal["union", "majority"]
Mentions = Literal["first", "all"]
Item = TypeVar("Item", Entity, Relation, Event, Argument)


@dataclass(frozen=True)
class Conflict:
    """A span with several entity types."""

    text: str
    span: Span
    types: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, "start": self.span.start, "end": self.span.end, "types": list(self.types)}


def shifted(items: Items, by: int) -> Items:
    """The items with their spans moved by so many characters: from places in a chunk to places in its document."""

    def moved(span: Span | None) -> Span | None:
        return None if span is None else Span(span.start + by, span.end + by)

    return Items(
        tuple(replace(entity, span=moved(entity.span)) for entity in items.entities),
        tuple(replace(r, head_span=moved(r.head_span), tail_span=moved(r.tail_span)) for r in items.relations),
        tuple(
            replace(
                event,
                span=moved(event.span),
                arguments=tuple(replace(argument, span=moved(argument.span)) for argument in event.arguments),
            )
            for event in items.events
        ),
    )


def merge_chunk(parts: Iterable[Items]) -> Items:
    """What the prompts of one chunk found, as one; events of the same type and trigger are put together."""
    return unique(sum_items(parts), "all")


def sum_items(parts: Iterable[Items]) -> Items:
    """All items of all parts, one part after another."""
    each = list(parts)
    return Items(
        tuple(entity for part in each for entity in part.entities),
        tuple(relation for part in each for relation in part.relations),
        tuple(event for part in each for event in part.events),
    )


def unique(items: Items, mentions: Mentions = "first") -> Items:
    """Each item once, in the order of the text; of equal ones the first place and the highest score.

    Args:
        mentions: ``all`` keeps an entity for each place at which it was found.
    """
    entities = _unique(items.entities, _entity_key(mentions))
    return Items(
        tuple(sorted(entities, key=lambda e: _place(e.span))),
        tuple(
            sorted(_unique(items.relations, _relation_key), key=lambda r: (_place(r.head_span), _place(r.tail_span)))
        ),
        _joined_events(items.events),
    )


def item_keys(items: Items, mentions: Mentions = "first") -> set[Hashable]:
    """What tells the items apart; equal items have equal keys."""
    return {
        *map(_entity_key(mentions), items.entities),
        *map(_relation_key, items.relations),
        *map(_event_key, items.events),
    }


def _entity_key(mentions: Mentions) -> Callable[[Entity], Hashable]:
    return lambda entity: (entity.type, entity.text, entity.span if mentions == "all" else None)


def _relation_key(relation: Relation) -> Hashable:
    return (relation.relation, relation.head_type, relation.head, relation.tail_type, relation.tail)


def _unique(items: Iterable[Item], key: Callable[[Any], Hashable]) -> list[Item]:
    groups: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [replace(min(group, key=_first), score=_highest(item.score for item in group)) for group in groups.values()]


def _first(item: Any) -> tuple[bool, int, int]:
    return _place(item.head_span if isinstance(item, Relation) else item.span)


def _place(span: Span | None) -> tuple[bool, int, int]:
    """Sorts by place, what has none last."""
    return (span is None, *(span or (0, 0)))


def _highest(scores: Iterable[float | None]) -> float | None:
    return max((score for score in scores if score is not None), default=None)


def _event_key(event: Event) -> Hashable:
    """Events are the same where type, trigger and place are; without a trigger, where they say the same."""
    said = () if event.trigger else tuple(sorted((a.role, a.text) for a in event.arguments))
    return (event.type, event.trigger, event.span if event.trigger else None, said)


def _joined_events(events: Sequence[Event]) -> tuple[Event, ...]:
    """Events of one key as one with the arguments of all, in the order of the text."""
    groups: dict[Hashable, list[Event]] = defaultdict(list)
    for event in events:
        groups[_event_key(event)].append(event)
    joined = []
    for group in groups.values():
        arguments: dict[Hashable, list[Argument]] = defaultdict(list)
        for argument in (argument for event in group for argument in event.arguments):
            arguments[_argument_key(argument)].append(argument)
        best = tuple(
            replace(min(same, key=lambda a: _place(a.span)), score=_highest(a.score for a in same))
            for same in arguments.values()
        )
        joined.append(replace(group[0], arguments=best, score=_highest(event.score for event in group)))
    return tuple(sorted(joined, key=lambda event: _place(event.span or _start(event))))


def _start(event: Event) -> Span | None:
    """Where an event without a trigger begins: with its first argument."""
    return min((argument.span for argument in event.arguments if argument.span), default=None)


def join_untriggered(parts: Sequence[Items]) -> list[Items]:
    """Arguments that one prompt gave without a trigger go to the event of their type, where others found exactly one.

    For parts of one chunk that asked for different roles of the same event types.
    """
    triggered: dict[str, set[Hashable]] = defaultdict(set)
    for part in parts:
        for event in part.events:
            if event.trigger:
                triggered[event.type].add((event.trigger, event.span))
    names: dict[str, Any] = {kind: next(iter(found)) for kind, found in triggered.items() if len(found) == 1}

    def joined(event: Event) -> Event:
        if event.trigger or event.type not in names:
            return event
        trigger, span = names[event.type]
        return replace(event, trigger=trigger, span=span)

    return [replace(part, events=tuple(map(joined, part.events))) for part in parts]


def without_moved(first: Items, second: Items) -> Items:
    """What the first of two steps found, without the events whose triggers the second found at other places.

    A trigger without arguments is placed where its word stands first; with its arguments it is placed near them.
    """

    def places(items: Items) -> dict[tuple[str, str], set[Span | None]]:
        found: dict[tuple[str, str], set[Span | None]] = defaultdict(set)
        for event in items.events:
            found[event.type, event.trigger].add(event.span)
        return found

    before, after = places(first), places(second)
    moved = {key: len(spans - before[key]) for key, spans in after.items() if key in before}
    kept = []
    for event in first.events:
        key = event.type, event.trigger
        if moved.get(key) and event.span not in after[key]:
            moved[key] -= 1
        else:
            kept.append(event)
    return replace(first, events=tuple(kept))


def vote(found: Sequence[Items], how: Vote = "union", mentions: Mentions = "first") -> Items:
    """What the permutations found, as one.

    union: what any found; majority: what more than half found, arguments of events each by themselves. Scores are the
    mean over all permutations, 0 for one that did not find the item.
    """
    if len(found) == 1:
        return found[0]
    needed = 1 if how == "union" else len(found) // 2 + 1
    total = sum_items(found)
    merged = unique(total, mentions)
    arguments: dict[Hashable, list[Argument]] = defaultdict(list)
    for event in total.events:
        arguments[_event_key(event)] += event.arguments

    def voted(event: Event) -> Event:
        own = arguments[_event_key(event)]
        return replace(event, arguments=_elected(event.arguments, own, _argument_key, needed, len(found)))

    return Items(
        _elected(merged.entities, total.entities, _entity_key(mentions), needed, len(found)),
        _elected(merged.relations, total.relations, _relation_key, needed, len(found)),
        tuple(map(voted, _elected(merged.events, total.events, _event_key, needed, len(found)))),
    )


def _argument_key(argument: Argument) -> Hashable:
    return (argument.role, argument.text)


def _elected(
    candidates: Iterable[Item], all_found: Iterable[Item], key: Callable[[Any], Hashable], needed: int, voters: int
) -> tuple[Item, ...]:
    """The candidates with enough votes, each with its mean score."""
    votes: dict[Hashable, list[Item]] = defaultdict(list)
    for item in all_found:
        votes[key(item)].append(item)
    own = ((candidate, votes[key(candidate)]) for candidate in candidates)
    return tuple(replace(item, score=_mean(same, voters)) for item, same in own if len(same) >= needed)


def _mean(items: Sequence[Any], count: int) -> float | None:
    """The mean score over ``count`` permutations; None where no scores were asked for."""
    scores = [item.score for item in items if item.score is not None]
    return sum(scores) / count if scores else None


def conflicts(entities: Iterable[Entity]) -> tuple[Conflict, ...]:
    """The spans that have several types, in the order of the text."""
    types: dict[Span, dict[str, str]] = defaultdict(dict)
    for entity in entities:
        if entity.span is not None:
            types[entity.span].setdefault(entity.type, entity.text)
    found = ((span, named) for span, named in sorted(types.items()) if len(named) > 1)
    return tuple(Conflict(next(iter(named.values())), span, tuple(named)) for span, named in found)
