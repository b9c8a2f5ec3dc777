"""What POST /extract wants: documents cut into prompts, a request to the engine for each, and items of the answers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.errors import UserError
from src.extraction.documents import Document
from src.extraction.extractor import FORMATS, Extractor
from src.extraction.plan import Extraction, Options, Plan, finish, plan, questions_of
from src.extraction.readers.schemas import read_schema, schema_names
from src.extraction.schema import Example, Schema, Task
from src.generation import tasks
from src.generation.engine import Capability, PromptTooLong, Unsupported
from src.serving.asking import Asked, check_keys, new_id
from src.serving.errors import ApiError, unsupported
from src.serving.sampling import check_size, token_limit
from src.serving.schemas import ExtractDocument, ExtractRequest
from src.serving.served import Catalogue, ServedModel
from src.serving.settings import Settings
from src.serving.shapes import Answer, usage

PIECE = 4000  # characters whose tokens are counted at a time
ANSWER_TOKENS = 512  # of an answer of the model, where the body says no number
MAX_TYPES = 256  # of a schema; each few of them are a prompt of their own. Also roles of one type, and so on
BLAMED = (
    "examples",
    "constraint",
    "format",
    "max_tokens",
    "max_chunk_tokens",
    "split_num",
    "schema",
)  # keys that errors of extraction name


@dataclass(frozen=True)
class Extracting:
    """A request to extract, as far as it is before the model has answered."""

    asked: Asked
    plans: Sequence[Plan]
    schema: Schema
    options: Options


def extraction(body: ExtractRequest, models: Catalogue, settings: Settings) -> Extracting:
    """The prompts of a body. Takes as long as reading its texts does: for a thread.

    Raises:
        ApiError: 400 for what can't be extracted or is too much for one request, 404 for the model.
    """
    check_keys(body, settings)
    served = models.find(body.model)
    documents = _documents(body, settings)
    schema = _schema(body)
    task = Task(body.task)
    try:
        options = _extractor(body, served, settings).options(schema, task)
        _check_amount(documents, schema, task, options, settings)
        plans = [plan(document, schema, task, options) for document in documents]
    except PromptTooLong as error:  # without any text yet
        what = "the schema and the examples are" if body.examples else "the schema alone is"
        message = f"{what} longer than the model's context: give fewer types, or shorter descriptions or examples"
        too_long = "examples" if body.examples else "schema"
        raise ApiError(400, message, param=too_long, code="context_length_exceeded") from error
    except Unsupported:
        raise
    except UserError as error:
        message = str(error).replace("max_new_tokens", "max_tokens")
        param = next((key for key in BLAMED if key in message), None)
        raise ApiError(400, message, param=param, code="invalid_value") from error
    identity = new_id("extract")
    wanted = [request for each in plans for request in each.requests]
    requests = [replace(request, id=f"{identity}-{number}") for number, request in enumerate(wanted)]
    _check_answers(len(requests), settings)
    places = max(1, served.engine.max_parallel)
    asked = Asked(identity, served, requests, stream=bool(body.stream), places=places)
    return Extracting(asked, plans, schema, options)


class ExtractShape:
    """The answer of /extract: for each document its items, and how the answers could be read.

    A stream says how many answers are there, and ends with the same body.

    Args:
        count: is given the number of answers by `src.extraction.formats.format.Status`.
    """

    is_slow = True

    def __init__(self, wanted: Extracting, count: Callable[[Counter[str]], None]):
        self.wanted, self.count = wanted, count
        self._streamed = [Answer() for _ in wanted.asked.requests]
        self._head = {"id": wanted.asked.id, "created": int(time.time()), "model": wanted.asked.served.id}

    def first(self) -> Iterator[dict[str, Any]]:
        yield self._progress()

    def part(self, number: int, piece: Answer) -> dict[str, Any]:
        self._streamed[number].extend(piece)
        return self._progress()

    def last(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        yield self.whole(self._streamed)  # the answers of a stream have no text

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        found = list(self._found(answers))
        self.count(sum((Counter({str(s): n for s, n in each.statuses.items()}) for each in found), Counter()))
        options = self.wanted.options
        return {
            **self._head,
            "object": "extraction",
            "task": str(found[0].task),
            "schema": self.wanted.schema.name or None,
            "format": options.format.name,
            "constraint": str(options.constraint),
            "documents": [_document(each) for each in found],
            "usage": usage(answers, 1),
        }

    def _progress(self) -> dict[str, Any]:
        return {
            **self._head,
            "object": "extraction.progress",
            "answers": sum(answer.finish_reason is not None for answer in self._streamed),
            "of": len(self._streamed),
            "completion_tokens": sum(answer.completion_tokens for answer in self._streamed),
        }

    def _found(self, answers: Sequence[Answer]) -> Iterator[Extraction]:
        done = iter(answers)
        for each in self.wanted.plans:
            yield finish(each, [_answer(request.id, next(done)) for request in each.requests])


def _document(found: Extraction) -> dict[str, Any]:
    """The record of a document without its text, which the client has."""
    return {key: value for key, value in found.as_dict().items() if key not in ("text", "task")}


def _answer(id: str, answer: Answer) -> tasks.Answer:
    """An answer as extraction reads it."""
    counts = answer.prompt_tokens, answer.completion_tokens
    return tasks.Answer(id, "", answer.text, answer.finish_reason or "stop", *counts, tuple(answer.logprobs))


def _documents(body: ExtractRequest, settings: Settings) -> list[Document]:
    """The texts of a body, each with a name of its own. Raises 400."""
    if (body.text is None) == (body.documents is None):
        raise ApiError(400, "give either text or documents", param="text", code="invalid_value")
    given = body.documents if body.documents is not None else [ExtractDocument(text=body.text or "")]
    if len(given) > settings.max_prompts:
        message = f"documents has {len(given)} entries: this server takes at most {settings.max_prompts}"
        raise ApiError(400, message, param="documents", code="invalid_value")
    documents = []
    for number, one in enumerate(given):
        param = "text" if body.documents is None else f"documents[{number}]"
        if not one.text.strip():
            raise ApiError(400, f"{param} is empty: give a text", param=param, code="invalid_value")
        documents.append(Document(one.id or str(number), one.text, title=one.title or ""))
    if repeated := [id for id, count in Counter(document.id for document in documents).items() if count > 1]:
        message = f"two documents have the id '{repeated[0][:50]}': give each its own"
        raise ApiError(400, message, param="documents", code="invalid_value")
    return documents


def _schema(body: ExtractRequest) -> Schema:
    """The schema of a body: one of ours by name, or its own; never a path of this machine. Raises 400."""
    given = body.schema_
    if isinstance(given, str) and given not in (known := schema_names()):
        message = f"there is no schema '{given[:100]}': choose one of {', '.join(known)}, or give its content"
        raise ApiError(400, message, param="schema", code="schema_not_found")
    check_size(given, "schema")
    _check_breadth(given)
    try:
        schema = read_schema(given, body.language)
    except UserError as error:
        raise ApiError(400, str(error), param="schema", code="invalid_value") from error
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:  # of what strangers think up
        message = "the schema can't be read: give a list of types, or an object as GET /extract/schemas shows"
        raise ApiError(400, message, param="schema", code="invalid_value") from error
    _check_count(sum(map(len, (schema.entities, schema.relations, schema.events, schema.records))), "types")
    return schema


def _check_breadth(given: Any) -> None:
    """Refuse what would take minutes and gigabytes to read.

    A relation is one of each of its heads with each of its tails, and a JSON schema may refer to its largest part from
    everywhere. Raises 400.
    """
    pairs, level = 0, [given]
    while level := [entry for entry in level if isinstance(entry, (dict, list))]:
        for entry in level:
            _check_count(len(entry), "entries in one list or object")
            if isinstance(entry, dict):
                ends = [len(end) for end in (entry.get("head"), entry.get("tail")) if isinstance(end, list)]
                pairs += math.prod(ends) if ends else 0
        level = [inner for entry in level for inner in (entry.values() if isinstance(entry, dict) else entry)]
    _check_count(pairs, "pairs of head and tail")


def _check_count(count: int, what: str) -> None:
    if count > MAX_TYPES:
        message = f"the schema has {count} {what}: give at most {MAX_TYPES} at a time"
        raise ApiError(400, message, param="schema", code="invalid_value")


def _extractor(body: ExtractRequest, served: ServedModel, settings: Settings) -> Extractor:
    if body.scores and Capability.LOGPROBS not in served.engine.capabilities:
        raise unsupported(f"scores: the {served.engine.name} engine has no log probabilities; leave it out", "scores")
    format = body.format or "auto"
    own = FORMATS.get(served.id) or FORMATS.get(served.parent or "") or "oneke"
    limit = token_limit(body.max_tokens, settings, served.engine.context_length, ANSWER_TOKENS, "max_tokens")
    return Extractor(
        served.engine,
        own if format == "auto" else format,
        body.constraint or "auto",
        chat=served.talks,
        max_chunk_tokens=body.max_chunk_tokens,
        split_num=body.split_num,
        language=body.language,
        max_new_tokens=limit,
        confidence=bool(body.scores),
        mentions=body.mentions or "first",
        titles=any(each.title for each in body.documents or ()),
        adapter=served.adapter,
        examples=tuple(Example(each.text, each.answer) for each in body.examples or ()),
        permutations=body.permutations or 1,
        vote=body.vote or "union",
    )


def _check_amount(
    documents: Sequence[Document], schema: Schema, task: Task, options: Options, settings: Settings
) -> None:
    """Refuse, before it is planned, what would take too many answers. Raises 400."""
    questions = len(questions_of(schema, task, options)) * options.permutations
    texts = [document.text for document in documents]
    pieces = [text[start : start + PIECE] for text in texts for start in range(0, len(text), PIECE)]
    tokens = sum(options.count(pieces))
    _check_answers(questions * max(len(documents), tokens // options.max_chunk_tokens), settings)


def _check_answers(count: int, settings: Settings) -> None:
    if count > settings.max_extract_answers:
        raise ApiError(
            400,
            f"the documents and the schema take {count} answers of the model: this server writes at most "
            f"{settings.max_extract_answers} for one request; send less text, or fewer types, at a time",
            param="documents",
            code="too_many_answers",
        )
