"""The engine that is always there: a transformers model in this process, with continuous batching.

It is the one that can do everything (beams, hidden states, grammars, weights that change between two tokens) and runs
in the middle of a training. `generate` works in the caller's thread; `stream` feeds one worker thread that many
requests share.
"""

import asyncio
import importlib.util
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from src.errors import UserError
from src.generation.engine import Capability, EngineDown, Event, Request, check_capabilities, check_ids
from src.generation.engines.batch import Batch
from src.generation.engines.beams import beam_search, search_key
from src.generation.engines.row import Row
from src.generation.engines.sampling import Chooser
from src.generation.engines.token_bytes import TokenBytes
from src.generation.prompts import PromptEncoder
from src.generation.text_stream import TextStream
from src.models.templates import Template

PREFILL_TOKENS = 8192  # of rows that join together, padding included: bounds the memory of reading prompts


@dataclass(eq=False)
class Work:
    """A row that a stream waits for, and where its events go."""

    row: Row
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event | BaseException]
    cancelled: bool = False

    def give(self, what: Event | BaseException) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, what)


@dataclass(frozen=True)
class Inspection:
    """What the model computes about a text.

    ids: of its tokens, ``n`` of them.
    logprobs: of each token given those before it, ``[n]``; 0 for the first.
    hidden_states: after the embedding and after each layer, ``[layers + 1, n, hidden_size]``.
    """

    ids: list[int]
    logprobs: torch.Tensor
    hidden_states: torch.Tensor


class TransformersEngine:
    """Generates with a model in memory (a PEFT model too), which may be in the middle of its training.

    Args:
        model: is put into evaluation mode while it generates and back afterwards; torch's random state is not touched.
        tokenizer: its padding side does not matter.
        template: for requests with messages; None where only plain prompts come.
        batch_size: requests generated together.
        adapters: names of adapters of a ``PeftModel`` that requests may ask for; those that don't get the plain model.
            Without names an adapter on the model is part of it.

    Attributes:
        step_cost: see `Batch`; None for what fits the device.
    """

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | None = None,
        batch_size: int = 8,
        adapters: Sequence[str] = (),
    ):
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be 1 or more")
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.max_parallel = batch_size
        self.step_cost: int | None = None
        self.adapters: Sequence[str] = tuple(adapters)
        self.context_length = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        guided = {Capability.JSON_SCHEMA, Capability.GRAMMAR}
        has_grammars = importlib.util.find_spec("llguidance") is not None
        self.capabilities = frozenset(Capability) - (frozenset() if has_grammars else guided)
        own = getattr(model.generation_config, "eos_token_id", None)
        ends = own if isinstance(own, list) else [own]
        self.prompts = PromptEncoder(
            tokenizer, template, self.context_length, frozenset(end for end in ends if end is not None)
        )
        self._names = TokenBytes(tokenizer)
        self._busy = threading.RLock()  # held for each token; `paused` holds it longer
        self._waiting: deque[Work] = deque()
        self._something = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closed = False

    def check(self, request: Request) -> int:
        """See `Engine.check`."""
        check_capabilities(self, request)
        return len(self.prompts.encode(request).ids)

    def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        return not self._closed

    def limit_context(self, tokens: int) -> None:
        """Let prompt and answer together have fewer tokens than the model can take. Raises `UserError` for more."""
        if not 1 < tokens <= self.context_length:
            raise UserError(f"context_length={tokens} must be between 2 and the model's {self.context_length}")
        self.context_length = self.prompts.context_length = tokens

    @contextmanager
    def paused(self) -> Iterator[PreTrainedModel]:
        """The model, while nothing is generated: for changing its weights. Answers go on with the new ones after."""
        with self._busy:
            yield self.model

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Events of all requests, short prompts first; UserError before anything runs where a request can't be met."""
        check_ids(requests)
        for request in requests:
            check_capabilities(self, request)
        rows = sorted(map(self._row, requests), key=lambda row: len(row.prompt.ids))
        waiting = deque(row for row in rows if row.request.decoding.num_beams == 1)
        batch = self._batch()
        with evaluating(self.model):
            while waiting or batch.rows:
                with self._busy:
                    events = self._join(batch, waiting) + (batch.step() if batch.rows else [])
                yield from (event for _, event in events)
                for failure in batch.failed.values():
                    raise failure
            for group in self._searches(row for row in rows if row.request.decoding.num_beams > 1):
                with self._busy:
                    events = beam_search(self.model, group, self._pad_id(), bool(self.adapters))
                yield from (event for _, event in events)

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        """See `Engine.stream`."""
        check_capabilities(self, request)
        row = await asyncio.to_thread(self._row, request)  # a long prompt or a schema takes a while
        work = Work(row, asyncio.get_running_loop(), asyncio.Queue())
        with self._something:
            if self._closed:
                raise EngineDown("the transformers engine is closed")
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name="transformers engine", daemon=True)
                self._worker.start()
            self._waiting.append(work)
            self._something.notify()
        try:
            while True:
                event = await work.events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            work.cancelled = True

    async def release(self) -> None:
        """See `Engine.release`: nothing here belongs to an event loop."""

    def close(self) -> None:
        """Stop the worker; what it was generating ends with `EngineDown`."""
        with self._something:
            self._closed = True
            self._something.notify()
        if self._worker is not None:
            self._worker.join()

    def inspect(self, text: str | Sequence[int], adapter: str | None = None) -> Inspection:
        """Log probabilities and hidden states of a text (or its token ids), in float32 on the CPU."""
        if adapter is not None and adapter not in self.adapters:
            raise UserError(f"the engine has no adapter '{adapter}': it has {', '.join(self.adapters) or 'none'}")
        request = Request("text", prompt=text) if isinstance(text, str) else Request("text", prompt_ids=text)
        ids = self.prompts.encode(request).ids
        more = {"adapter_names": [adapter or "__base__"]} if self.adapters else {}
        with self._busy, evaluating(self.model), torch.no_grad():
            model: Any = self.model
            output = model(torch.tensor([ids], device=model.device), output_hidden_states=True, **more)
        logprobs = output.logits[0, :-1].float().log_softmax(dim=-1).cpu()
        chosen = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0] if len(ids) > 1 else logprobs.new_zeros(0)
        states = torch.stack([layer[0].float().cpu() for layer in output.hidden_states])
        return Inspection(ids, torch.cat([chosen.new_zeros(1), chosen]), states)

    def _row(self, request: Request) -> Row:
        prompt, how = self.prompts.encode(request), request.decoding
        grammar = None
        if how.json_schema is not None or how.grammar is not None:
            from src.generation.engines.grammar import follow

            grammar = follow(how, self.tokenizer, prompt.end_ids)
        chooser = Chooser(how, prompt.ids, grammar, prompt.banned)
        return Row(request, prompt, TextStream(self.tokenizer, prompt.stop), chooser)

    def _batch(self) -> Batch:
        return Batch(self.model, self._pad_id(), self._names, by_adapter=bool(self.adapters), step_cost=self.step_cost)

    def _join(self, batch: Batch, waiting: deque[Row]) -> list[tuple[Row, Event]]:
        """Let as many rows join as there is room for."""
        if not batch.can_join:
            return []
        joining: list[Row] = []
        while waiting and len(batch.rows) + len(joining) < self.max_parallel:
            width = max(len(row.prompt.ids) for row in [*joining, waiting[0]])
            if joining and width * (len(joining) + 1) > PREFILL_TOKENS:
                break
            joining.append(waiting.popleft())
        return batch.join(joining) if joining else []

    def _searches(self, rows: Iterable[Row]) -> list[list[Row]]:
        """Rows that ask for beam search, those that can be searched together in one list."""
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(search_key(row), []).append(row)
        most = self.max_parallel
        return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]

    def _serve(self) -> None:
        """The worker: lets waiting requests join between two tokens."""
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)
        batch, running = self._batch(), dict[Row, Work]()
        while True:
            with self._something:
                while not (self._waiting or running or self._closed):
                    self._something.wait()
                if self._closed:
                    break
            with evaluating(self.model):
                self._turn(batch, running)
                beams = (row for row in running if row.request.decoding.num_beams > 1)
                for group in self._searches(beams)[:1]:
                    self._search(group, batch, running)
        for work in [*running.values(), *self._waiting]:
            work.give(EngineDown("the transformers engine was closed"))

    def _turn(self, batch: Batch, running: dict[Row, Work]) -> None:
        """One token for everyone without beams, after the new have joined and the cancelled left."""
        with self._something:
            while self._waiting and batch.can_join and len(running) < self.max_parallel:
                work = self._waiting.popleft()
                running[work.row] = work
        for row in [row for row, work in running.items() if work.cancelled]:
            del running[row]
        try:
            batch.leave([row for row in batch.rows if row not in running])
            there = set(batch.rows)
            new = deque(row for row in running if row not in there and row.request.decoding.num_beams == 1)
            events: list[tuple[Row, Event]] = []
            with self._busy:
                while new and (joined := self._join(batch, new)):
                    events += joined
                events += batch.step() if batch.rows else []
        except Exception as error:  # out of memory, say: it ends these answers, not the engine
            for row in [row for row in running if row.request.decoding.num_beams == 1]:
                running.pop(row).give(error)
            batch.leave(list(batch.rows))
            return
        _deliver(events, running)
        for row in batch.failed.keys() & running.keys():
            running.pop(row).give(batch.failed[row])
        batch.failed.clear()

    def _search(self, rows: list[Row], batch: Batch, running: dict[Row, Work]) -> None:
        """A beam search, with a token for everyone else after each of its own."""
        works = [running[row] for row in rows]

        def stopped() -> bool:
            self._turn(batch, running)
            return self._closed or all(work.cancelled for work in works)

        failure: Exception = EngineDown("the transformers engine stopped a beam search")
        try:
            with self._busy:
                _deliver(beam_search(self.model, rows, self._pad_id(), bool(self.adapters), stopped), running)
        except Exception as error:
            failure = error
        for row in rows:
            if row in running:
                running.pop(row).give(failure)

    def _pad_id(self) -> int:
        choices = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(int(number) for number in choices if number is not None)


def _deliver(events: Iterable[tuple[Row, Event]], running: dict[Row, Work]) -> None:
    for row, event in events:
        work = running.get(row)
        if work is not None:  # a row of a beam search may have been cancelled since
            work.give(event)
        if event.finish_reason is not None:
            running.pop(row, None)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and every module back in the mode it had afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
