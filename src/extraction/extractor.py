"""What people use: a model, a schema and a task to entities, relations and events of texts.

    from src.extraction import Extractor

    extractor = Extractor.from_pretrained("smollm2_135m")
    found = extractor.extract("Marie Curie was born in Warsaw.", schema="person_org_place", task="ner")
    found.items.entities

Long texts are cut into chunks and put together again; many documents share the engine, which is never left idle.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from src.errors import UserError
from src.extraction.chunks import MIN_CHUNK_TOKENS
from src.extraction.documents import Document
from src.extraction.formats.format import PromptFormat, load_format
from src.extraction.plan import (
    Ask,
    Constraint,
    Extraction,
    Options,
    Plan,
    Reading,
    check,
    follow_up,
    permuted,
    plan,
    questions_of,
    read,
    request_of,
)
from src.extraction.readers.schemas import read_schema
from src.extraction.running import Run, answer_all
from src.extraction.schema import Question, Schema, Task
from src.generation.engine import Capability, Decoding, Engine, Request
from src.generation.tasks import AnswerPool

if TYPE_CHECKING:
    from src.generation.prompts import PromptEncoder
    from src.generation.setup import EngineKind
    from src.models.spec import ModelSpec

log = logging.getLogger(__name__)

# Models were tuned on prompts of a few hundred tokens (IEPile: at most 400), and find less in longer ones.
CHUNK_TOKENS = 512
SLACK = 0.02  # of a chunk, and SLACK_TOKENS: sentences together may be more tokens than each by itself
SLACK_TOKENS = 16
TRIGGER_TOKENS = 64  # of triggers in the prompts of a second step
FORMATS = {"knowlm_13b_ie": "knowlm", "knowlm_13b_zhixi": "zhixi"}  # oneke for every other model
BFLOAT16 = ("oneke",)  # checkpoints that write broken answers in float16


@dataclass(frozen=True)
class Explanation:
    """One request as the model saw it, and what became of its answer.

    prompt: as the model reads it, control tokens included; the message where only an endpoint knows the template.
    prompt_tokens: 0 where only an endpoint knows.
    constraint: grammar or JSON schema of the answer; empty for none.
    reading: None before the model has answered.
    """

    request: Request
    question: Question
    start: int
    end: int
    prompt: str
    prompt_tokens: int
    constraint: str
    reading: Reading | None = None

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.request.id,
            "task": str(self.question.task),
            "asked": list(self.question.names),
            "chunk": [self.start, self.end],
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            "constraint": self.constraint,
        }
        if self.reading is not None:
            found |= {
                "answer": self.reading.answer.text,
                "finish_reason": self.reading.answer.finish_reason,
                "completion_tokens": self.reading.answer.completion_tokens,
                "status": str(self.reading.parsed.status),
                "notes": {str(note): count for note, count in sorted(self.reading.notes.items())},
                "items": self.reading.items.as_dict(),
            }
        return found


class Extractor:
    """Extracts with one engine and one way of asking.

    Args:
        engine: must be closed by whoever opened it; `from_pretrained` opens one that `close` closes.
        format: how questions are put: oneke, knowlm, zhixi.
        constraint: what answers may be: free, json, extractive (JSON whose texts all stand in the document), or auto:
            the last of them that the engine and the format can do.
        chat: whether prompts go through the model's template.
        max_chunk_tokens: of the document in one prompt; None: as many as fit beside prompt and answer, at most 512.
        options: the other fields of `src.extraction.plan.Options`: split_num, max_new_tokens, overlap, permutations,
            vote, examples, two_step, confidence, limits, ….

    Raises:
        UserError: the engine can't do what is asked.
    """

    def __init__(
        self,
        engine: Engine,
        format: str | PromptFormat = "oneke",
        constraint: str = "auto",
        *,
        chat: bool = True,
        max_chunk_tokens: int | None = None,
        **options: Any,
    ):
        self.engine = engine
        self.format = load_format(format) if isinstance(format, str) else format
        check_options(options)
        capabilities = engine.capabilities
        self._max_chunk_tokens = max_chunk_tokens
        self._options = Options(
            self.format,
            self._count,
            0,
            choose_constraint(constraint, self.format, capabilities),
            Capability.GRAMMAR in capabilities,
            chat,
            **options,
        )
        if self._options.confidence and Capability.LOGPROBS not in capabilities:
            raise UserError(
                f"confidence needs log probabilities, which the {engine.name} engine can't give: leave it out"
            )
        self._owns_engine = False
        self._known: tuple[Schema, Task, Options] | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: "str | ModelSpec",
        adapter_path: str | None = None,
        engine: "EngineKind | None" = None,
        format: str | None = None,
        constraint: str = "auto",
        *,
        template: str | None = "auto",
        dtype: str = "auto",
        device: str = "auto",
        quantization: str = "none",
        max_parallel: int | None = None,
        context_length: int | None = None,
        **options: Any,
    ) -> "Extractor":
        """An extractor with a model of its own: a name of the zoo, a folder, a hub id, a ``.gguf`` file.

        Args:
            adapter_path: a PEFT folder put on the model.
            engine: which; transformers by default.
            format: None: the model's (knowlm and zhixi for KnowLM's checkpoints), else oneke.
            template, dtype, device, quantization, max_parallel, context_length: see `src.generation.setup.load_engine`.
        """
        check_options(options)
        from src.generation.setup import load_engine  # torch comes in here
        from src.models.zoo import find_model

        spec = find_model(model) if isinstance(model, str) else model
        opened, talks = load_engine(
            spec,
            engine,
            adapter_path=adapter_path,
            template=template,
            dtype=dtype,
            device=device,
            quantization=quantization,
            max_parallel=max_parallel,
            context_length=context_length,
        )
        warn_of_float16(spec, opened)
        try:
            extractor = cls(opened, format or format_of(spec), constraint, chat=talks, **options)
        except UserError:
            opened.close()
            raise
        extractor._owns_engine = True
        return extractor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the engine that `from_pretrained` opened."""
        if self._owns_engine:
            self.engine.close()

    @property
    def constraint(self) -> Constraint:
        """What answers are held to."""
        return self._options.constraint

    def extract(self, text: str | Document, schema: Any, task: str | Task) -> Extraction:
        """What one text holds.

        Args:
            schema: whatever `src.extraction.readers.schemas.read_schema` takes: a name, a path, a `Schema`, a list.
            task: ner, re, spo, ee, eet, eea, kg.

        Raises:
            UserError: the text is empty, or the schema has nothing for the task.
        """
        document = text if isinstance(text, Document) else Document("text", text)
        if not document.text.strip():
            raise UserError("the text is empty: give one to extract from")
        (found,) = self.extract_many([document], schema, task)
        return found

    def extract_many(self, documents: Iterable[str | Document], schema: Any, task: str | Task) -> Iterator[Extraction]:
        """What each document holds, in their order; documents are taken as the engine has room for them.

        Closing the iterator stops the work.

        Raises:
            UserError: as `extract`; also what reading the documents raises.
        """
        schema, task = _schema(schema), _task(task)
        options = self.options(schema, task)
        named = (
            each if isinstance(each, Document) else Document(str(number), each) for number, each in enumerate(documents)
        )
        with AnswerPool(self.engine) as pool:
            yield from Run(pool, (plan(document, schema, task, options) for document in named)).results()

    def explain(self, text: str | Document, schema: Any, task: str | Task) -> list[Explanation]:
        """The doctor: every request with its exact prompt, the grammar, the raw answer and what was read in it."""
        step: Plan | None = self._plan(text, schema, task)
        found: list[Explanation] = []
        with AnswerPool(self.engine) as pool:
            while step is not None:
                answers = answer_all(pool, step)
                found += map(self._explained, step.asks, read(step, answers))
                step = follow_up(step, answers)
        return found

    def preview(self, text: str | Document, schema: Any, task: str | Task) -> list[Explanation]:
        """The requests of a text, without asking the model; of two steps the first."""
        return [self._explained(ask) for ask in self._plan(text, schema, task).asks]

    def options(self, schema: Schema, task: Task) -> Options:
        """The options for `src.extraction.plan.plan`, with the room that the schema's prompts leave for a chunk."""
        if self._known is None or self._known[:2] != (schema, task):
            check(self._options, task)
            room = self._room(schema, task)
            self._known = schema, task, replace(self._options, max_chunk_tokens=room)
        return self._known[2]

    def _plan(self, text: str | Document, schema: Any, task: str | Task) -> Plan:
        schema, task = _schema(schema), _task(task)
        document = text if isinstance(text, Document) else Document("text", text)
        return plan(document, schema, task, self.options(schema, task))

    def _room(self, schema: Schema, task: Task) -> int:
        """Tokens of a chunk that fit into a prompt beside everything else."""
        options = self._options
        orders = permuted(schema, options.permutations, options.seed)  # whose portions differ in length
        messages = [self.format.message(each, "") for order in orders for each in questions_of(order, task, options)]
        requests = [request_of("empty", message, Decoding(max_new_tokens=1), options) for message in messages]
        longest = max(map(self.engine.check, requests))
        if not (window := self.engine.context_length):  # only the endpoint knows
            return self._max_chunk_tokens or CHUNK_TOKENS
        rest = window - longest - options.max_new_tokens - SLACK_TOKENS - (TRIGGER_TOKENS if options.two_step else 0)
        room = int(rest * (1 - SLACK))
        if room < max(MIN_CHUNK_TOKENS, self._max_chunk_tokens or 0):
            raise UserError(
                f"a prompt of {longest} tokens and an answer of {options.max_new_tokens} leave {max(room, 0)} of the "
                f"context's {window} tokens to the text: set a smaller max_new_tokens, split_num or max_chunk_tokens"
            )
        return self._max_chunk_tokens or min(room, CHUNK_TOKENS)

    def _count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of texts as they stand in a prompt, escaped where that is JSON; estimated for an endpoint."""
        written = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts] if self.format.is_json else list(texts)
        encoder: PromptEncoder | None = getattr(self.engine, "prompts", None)
        if encoder is None:
            return [estimated_tokens(text) for text in written]
        return [len(ids) for ids in encoder.tokenizer(written, add_special_tokens=False)["input_ids"]]

    def _explained(self, ask: Ask, reading: Reading | None = None) -> Explanation:
        encoder: PromptEncoder | None = getattr(self.engine, "prompts", None)
        request = ask.request
        if encoder is not None:
            ids = encoder.encode(request).ids
            prompt, tokens = str(encoder.tokenizer.decode(ids, skip_special_tokens=False)), len(ids)
        else:
            prompt = request.prompt or "\n".join(message.text for message in request.messages or ())
            tokens = 0
        how = request.decoding
        schema = "" if how.json_schema is None else json.dumps(how.json_schema, ensure_ascii=False)
        constraint = how.grammar.lark if how.grammar is not None else schema
        return Explanation(request, ask.question, ask.chunk.start, ask.chunk.end, prompt, tokens, constraint, reading)


def choose_constraint(constraint: str, format: PromptFormat, capabilities: frozenset[Capability]) -> Constraint:
    """What answers are held to; ``auto`` is as much as the engine and the format can do. Raises `UserError`."""
    able = {
        Constraint.EXTRACTIVE: Capability.GRAMMAR in capabilities,
        Constraint.JSON: bool({Capability.GRAMMAR, Capability.JSON_SCHEMA} & capabilities),
        Constraint.FREE: True,
    }
    if constraint == "auto":
        return next(each for each in able if able[each]) if format.is_json else Constraint.FREE
    try:
        chosen = Constraint(constraint)
    except ValueError as error:
        raise UserError(f"constraint={constraint} is not known: choose one of auto, {', '.join(Constraint)}") from error
    if not able[chosen]:
        raise UserError(f"constraint={chosen} is more than the engine can do: set constraint=auto, or another engine")
    return chosen


def check_options(options: Iterable[str]) -> None:
    """Raise `UserError` for a name that is no option of an extractor."""
    known = {each.name for each in fields(Options)} - {"format", "constraint", "count", "follows_grammars"}
    if unknown := sorted(set(options) - known):
        raise UserError(f"'{unknown[0]}' is no option of an extractor: choose among {', '.join(sorted(known))}")


def format_of(spec: "ModelSpec") -> str:
    """The format that a model was tuned on, ``oneke`` where nothing is known."""
    return FORMATS.get(spec.name, "oneke")


def warn_of_float16(spec: "ModelSpec", engine: Engine) -> None:
    """Warn where a checkpoint made in bfloat16 runs in float16."""
    dtype = str(getattr(getattr(engine, "model", None), "dtype", ""))
    if dtype == "torch.float16" and (spec.name in BFLOAT16 or "oneke" in (spec.hub_id or "").lower()):
        log.warning("%s was made in bfloat16 and writes broken answers in float16: set dtype=bfloat16", spec.name)


def estimated_tokens(text: str) -> int:
    """Tokens of a text by a rule of thumb that is rather too high: one for three bytes of ASCII, else one a letter."""
    plain = sum(character.isascii() for character in text)
    return -(-plain // 3) + 2 * (len(text) - plain)


def _schema(schema: Any) -> Schema:
    return schema if isinstance(schema, Schema) else read_schema(schema)


def _task(task: str | Task) -> Task:
    return task if isinstance(task, Task) else Task.named(task)
