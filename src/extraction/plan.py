"""From a document to the requests that a model must answer, and from its answers to what was found: two pure functions.

`plan` asks every question of a schema about every chunk of a document; `finish` reads and merges the answers. Who runs
the requests in between is no business of theirs: an `Extractor` does it with its engine, a server with its own.

    step = plan(document, schema, task, options)
    while step:
        answers = …                           # of every request in step.requests
        done, step = step, follow_up(step, answers)
    extraction = finish(done, answers)
"""

import random
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, get_args

from src.errors import UserError
from src.extraction.chunks import MIN_CHUNK_TOKENS, Chunk, CountTokens, chunks
from src.extraction.confidence import score_items
from src.extraction.constraints.grammar import Limits, answer_grammar, answer_schema
from src.extraction.documents import Document
from src.extraction.formats.batching import questions
from src.extraction.formats.format import Note, Parsed, PromptFormat, Status
from src.extraction.items import Items, Sample
from src.extraction.merge import (
    Conflict,
    Mentions,
    Vote,
    conflicts,
    item_keys,
    join_untriggered,
    merge_chunk,
    shifted,
    sum_items,
    unique,
    vote,
    without_moved,
)
from src.extraction.offsets import place
from src.extraction.schema import Example, Language, Question, Schema, Task, check_language
from src.generation.engine import Decoding, Request
from src.generation.tasks import Answer
from src.models.conversation import Message


class Constraint(StrEnum):
    """What an answer may be."""

    FREE = "free"  # anything
    JSON = "json"  # JSON of the form that the question asks for
    EXTRACTIVE = "extractive"  # the same, and every text in it is one of the document


@dataclass(frozen=True)
class Options:
    """How a document is asked about.

    count: tokens of texts as they stand in a prompt.
    max_chunk_tokens: of the text in one prompt.
    follows_grammars: whether the engine can be given grammars; else it is given JSON schemas.
    chat: whether prompts go through the model's template.
    split_num, language, max_roles: see `src.extraction.formats.batching.questions`.
    overlap: sentences that two neighbouring chunks share.
    permutations: how often each chunk is asked about, each time with the schema in another order; answers vote.
    seed: of the permutations.
    two_step: events in two rounds: triggers first, then the arguments of those found.
    confidence: give items scores.
    drop_missing: leave out what the chunk does not hold.
    mentions: ``first`` gives an entity its first place in the document; ``all`` has an item for each place found.
    titles: put a document's title before each chunk, at most a quarter of it.
    adapter: the engine's, by name.
    """

    format: PromptFormat
    count: CountTokens
    max_chunk_tokens: int
    constraint: Constraint = Constraint.FREE
    follows_grammars: bool = True
    chat: bool = True
    split_num: int | None = None
    language: Language | None = None
    max_roles: int | None = 12
    limits: Limits = field(default_factory=Limits)
    max_new_tokens: int = 512
    num_beams: int = 1
    overlap: int = 1
    permutations: int = 1
    vote: Vote = "union"
    seed: int = 0
    examples: tuple[Example, ...] = ()
    two_step: bool = False
    confidence: bool = False
    drop_missing: bool = False
    mentions: Mentions = "first"
    titles: bool = False
    adapter: str | None = None


@dataclass(frozen=True)
class Ask:
    """One request of a plan: which question about which chunk, in which permutation of the schema."""

    request: Request
    question: Question
    chunk: Chunk
    permutation: int = 0


@dataclass(frozen=True)
class Reading:
    """What the answer to one request says. ``items`` have their places in the document."""

    ask: Ask
    answer: Answer
    parsed: Parsed
    items: Items
    notes: Counter[Note]


@dataclass(frozen=True)
class Plan:
    """All requests of a document, or of one of two steps. ``readings``: of the step before."""

    document: Document
    schema: Schema
    task: Task
    options: Options
    chunks: tuple[Chunk, ...]
    asks: tuple[Ask, ...]
    readings: tuple[Reading, ...] = ()
    is_first_step: bool = False

    @property
    def requests(self) -> list[Request]:
        """For the engine; ids are unique within the document only."""
        return [ask.request for ask in self.asks]


@dataclass(frozen=True)
class ChunkCount:
    """How many items one chunk gave, and how many of them no chunk before it had: the recall along a document."""

    start: int
    end: int
    items: int
    new: int


@dataclass(frozen=True)
class Extraction:
    """What was found in one document, and how it went.

    sample: the text and its items, with places.
    statuses: by which rung of the parser's ladder the answers were read.
    notes: what was wrong with parts of answers.
    truncated: answers that hit the limit of tokens.
    orders: names of the schema as each permutation asked for them.
    """

    sample: Sample
    task: Task
    requests: int = 0
    statuses: Counter[Status] = field(default_factory=Counter)
    notes: Counter[Note] = field(default_factory=Counter)
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    chunks: tuple[ChunkCount, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    orders: tuple[tuple[str, ...], ...] = ()

    @property
    def items(self) -> Items:
        return self.sample.items

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the sample record (`src.extraction.items.Sample`) with task and ``report``."""
        report: dict[str, Any] = {
            "requests": self.requests,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "notes": {str(note): count for note, count in sorted(self.notes.items())},
            "truncated": self.truncated,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "chunks": [vars(chunk) for chunk in self.chunks],
        }
        report |= {"conflicts": [conflict.as_dict() for conflict in self.conflicts]} if self.conflicts else {}
        report |= {"orders": [list(order) for order in self.orders]} if len(self.orders) > 1 else {}
        return self.sample.as_dict() | {"task": str(self.task), "report": report}


def plan(document: Document, schema: Schema, task: Task, options: Options) -> Plan:
    """The requests of a document; none where its text is blank.

    Raises:
        UserError: the schema has nothing for the task, or options do not go together.
    """
    check(options, task)
    most = options.max_chunk_tokens
    if options.titles and document.title.strip():
        short = chunks(document.title, max(most // 4, MIN_CHUNK_TOKENS), options.count, 0)[0]
        document = replace(document, title=short.text)
        most = max(most - short.tokens - 1, MIN_CHUNK_TOKENS)
    pieces = tuple(chunks(document.text, most, options.count, options.overlap))
    two_step = options.two_step and task is Task.EE
    first_task = Task.EET if two_step else task
    orders = permuted(schema, options.permutations, options.seed)
    asked = [questions_of(order, first_task, options) for order in orders]
    asks = [
        _ask(f"{chunk.number}.{number}.{index}", question, document, chunk, number, options)
        for chunk in pieces
        for number, batch in enumerate(asked)
        for index, question in enumerate(batch)
    ]
    return Plan(document, schema, task, options, pieces, tuple(asks), (), two_step)


def check(options: Options, task: Task) -> None:
    """Raise `UserError` for options that do not go together, or with the task."""
    if options.language is not None:
        check_language(options.language)
    for name, kinds in (("vote", Vote), ("mentions", Mentions)):
        if (given := getattr(options, name)) not in get_args(kinds):
            raise UserError(f"{name}={given} is not known: choose one of {', '.join(get_args(kinds))}")
    if options.permutations < 1:
        raise UserError(f"permutations is {options.permutations}: it must be 1 or more")
    if options.two_step and task is not Task.EE:
        raise UserError(f"two_step is for task=ee, and the task is {task}: leave it out")
    if options.confidence and options.num_beams > 1:
        raise UserError(
            "confidence needs the probabilities of tokens, which beam search does not give: set num_beams=1"
        )
    if options.examples and not options.format.is_json:
        raise UserError(
            f"examples are JSON objects in the prompt, and format={options.format.name} has none: leave them out, or "
            "set format=oneke"
        )
    if options.constraint is not Constraint.FREE and not options.format.is_json:
        raise UserError(
            f"constraint={options.constraint} needs JSON answers, and format={options.format.name} has others: "
            "set constraint=free or format=oneke"
        )


def permuted(schema: Schema, count: int, seed: int) -> list[Schema]:
    """The schema in its own order, then in others drawn by chance; the same ones for the same seed."""
    orders = [schema]
    for number in range(1, count):
        draw = random.Random(f"{seed}:{number}")
        orders.append(
            replace(
                schema,
                entities=tuple(draw.sample(schema.entities, len(schema.entities))),
                relations=tuple(draw.sample(schema.relations, len(schema.relations))),
                events=tuple(draw.sample(schema.events, len(schema.events))),
                records=tuple(draw.sample(schema.records, len(schema.records))),
            )
        )
    return orders


def questions_of(
    schema: Schema, task: Task, options: Options, triggers: Mapping[str, Sequence[str]] | None = None
) -> list[Question]:
    """The questions that one chunk is asked; those of `Task.EEA` name the triggers where they are known."""
    return questions(schema, task, options.split_num, options.language, triggers, options.examples, options.max_roles)


def prompt_text(document: Document, chunk: Chunk, options: Options) -> str:
    """The text as the prompt has it: the chunk, with the document's title before it where that is asked for."""
    return f"{document.title}\n{chunk.text}" if options.titles and document.title else chunk.text


def _ask(id: str, question: Question, document: Document, chunk: Chunk, permutation: int, options: Options) -> Ask:
    message = options.format.message(question, prompt_text(document, chunk, options))
    decoding = Decoding(
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        logprobs=0 if options.confidence else None,
        **_constrained(question, chunk, options),
    )
    return Ask(request_of(id, message, decoding, options), question, chunk, permutation)


def request_of(id: str, message: Message, decoding: Decoding, options: Options) -> Request:
    """A message as a request: through the model's template, or as plain text for a model that has none."""
    if options.chat:
        return Request(id, messages=[message], decoding=decoding, adapter=options.adapter)
    return Request(id, prompt=message.text, decoding=decoding, adapter=options.adapter)


def _constrained(question: Question, chunk: Chunk, options: Options) -> dict[str, Any]:
    if options.constraint is Constraint.FREE:
        return {}
    if not options.follows_grammars:
        return {"json_schema": answer_schema(question, options.limits)}
    text = chunk.text if options.constraint is Constraint.EXTRACTIVE else None
    return {"grammar": answer_grammar(question, text, options.limits)}


def read(step: Plan, answers: Iterable[Answer]) -> list[Reading]:
    """What each answer says, in the order of the requests. Raises `UserError` where one is missing."""
    by_id = {answer.id: answer for answer in answers}
    if missing := [ask.request.id for ask in step.asks if ask.request.id not in by_id]:
        raise UserError(f"{len(missing)} of {len(step.asks)} requests have no answer, the first is '{missing[0]}'")
    return [_reading(ask, by_id[ask.request.id], step.options) for ask in step.asks]


def _reading(ask: Ask, answer: Answer, options: Options) -> Reading:
    parsed = options.format.parse(answer.text, ask.question, ask.chunk.text)
    items = parsed.items
    if options.confidence:
        items = score_items(items, answer.text, answer.logprobs)
    items = _with_triggers(items, ask.question)
    placed, missing = place(items, ask.chunk.text, options.drop_missing)
    return Reading(ask, answer, parsed, shifted(placed, ask.chunk.start), parsed.notes + missing)


def _with_triggers(items: Items, question: Question) -> Items:
    """Events whose triggers were given in the question, and not repeated in the answer, get them back, by order."""
    if not question.triggers:
        return items
    left = {name: list(words) for name, words in question.triggers.items()}
    for event in items.events:
        if event.trigger in left.get(event.type, ()):
            left[event.type].remove(event.trigger)
    events = [
        event if event.trigger or not left.get(event.type) else replace(event, trigger=left[event.type].pop(0))
        for event in items.events
    ]
    return replace(items, events=tuple(events))


def follow_up(step: Plan, answers: Iterable[Answer]) -> Plan | None:
    """The second of two steps: the arguments of the events whose triggers were found. None where there is none."""
    if not step.is_first_step:
        return None
    readings = read(step, answers)
    triggers: dict[tuple[int, int], dict[str, list[str]]] = {}  # by chunk and permutation
    for reading in readings:
        for event in reading.items.events:
            found = triggers.setdefault((reading.ask.chunk.number, reading.ask.permutation), {})
            found.setdefault(event.type, []).append(event.trigger)
    orders = permuted(step.schema, step.options.permutations, step.options.seed)
    asks = [
        _ask(f"{chunk}.{number}.a{index}", question, step.document, step.chunks[chunk], number, step.options)
        for (chunk, number), found in triggers.items()
        for index, question in enumerate(questions_of(orders[number], Task.EEA, step.options, found))
    ]
    return replace(step, asks=tuple(asks), readings=tuple(readings), is_first_step=False) if asks else None


def finish(step: Plan, answers: Iterable[Answer]) -> Extraction:
    """What the answers to the last step of a plan, and those before, say about the document.

    Raises:
        UserError: an answer is missing.
    """
    last = read(step, answers)
    readings = [*step.readings, *last]
    options = step.options
    parts: dict[tuple[int, int], list[Items]] = {}  # by permutation and chunk
    for reading in last:
        parts.setdefault((reading.ask.permutation, reading.ask.chunk.number), []).append(reading.items)
    for reading in step.readings:
        own = parts.setdefault((reading.ask.permutation, reading.ask.chunk.number), [])
        own.append(without_moved(reading.items, sum_items(own)))
    by_chunk = {place: merge_chunk(join_untriggered(found)) for place, found in parts.items()}
    found = [
        unique(sum_items(items for (number, _), items in by_chunk.items() if number == permutation), options.mentions)
        for permutation in range(options.permutations)
    ]
    items = vote(found, options.vote, options.mentions)
    notes: Counter[Note] = Counter()
    for reading in readings:
        notes += reading.notes
    return Extraction(
        Sample(step.document.id, step.document.text, items, step.document.source),
        step.task,
        len(readings),
        Counter(reading.parsed.status for reading in readings),
        notes,
        sum(reading.answer.finish_reason == "length" for reading in readings),
        sum(reading.answer.prompt_tokens for reading in readings),
        sum(reading.answer.completion_tokens for reading in readings),
        tuple(_counts(step, by_chunk)),
        conflicts(items.entities),
        _orders(step),
    )


def _orders(step: Plan) -> tuple[tuple[str, ...], ...]:
    orders = permuted(step.schema, step.options.permutations, step.options.seed)
    return tuple(tuple(element.name for element in order.elements(step.task)) for order in orders)


def _counts(step: Plan, by_chunk: Mapping[tuple[int, int], Items]) -> Iterable[ChunkCount]:
    before: set[Hashable] = set()
    for chunk in step.chunks:
        places = ((permutation, chunk.number) for permutation in range(step.options.permutations))
        own = sum_items(by_chunk[place] for place in places if place in by_chunk)
        keys = item_keys(own, step.options.mentions)
        yield ChunkCount(chunk.start, chunk.end, len(keys), len(keys - before))
        before |= keys
