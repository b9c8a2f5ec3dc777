"""The engine that is always there: transformers' ``generate``, in batches padded on the left.

One `Watcher` sits among the stopping criteria. It sees every new token of every row, so that rows end on their own
stop texts and limits, text can be streamed for whole batches, and a cancelled run ends at the next token. One
`TokenChooser` sits among the logits processors and does the repetition penalty (without counting padding) and the
drawing (with a random stream for each request, apart from torch's own): an answer does not depend on its neighbours.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from src.errors import UserError
from src.generation.engine import Event, FinishReason, Request
from src.generation.text_stream import TextStream
from src.models.conversation import adds_bos, text_ids
from src.models.templates import Template


@dataclass
class Row:
    """One request on its way through a batch."""

    request: Request
    ids: list[int]
    limit: int  # tokens it may generate
    text: TextStream
    tokens: int = 0
    finish_reason: FinishReason | None = None

    def event(self, delta: str) -> Event:
        return Event(self.request.id, delta, self.finish_reason, len(self.ids), self.tokens)


class TransformersEngine:
    """Generates with a model in memory (a PEFT model too), which may be in the middle of its training.

    Args:
        model: is put into evaluation mode while it generates and back afterwards; torch's random state is not touched.
        tokenizer: its padding side does not matter.
        template: for requests with messages; None where only plain prompts come.
        batch_size: requests generated together. Those of similar length are put together.
        stream: let text out token by token. Beam search, which knows its answer only at the end, gives it at the end.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | None = None,
        batch_size: int = 8,
        stream: bool = False,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be 1 or more")
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.batch_size, self.stream = batch_size, stream
        self.context_length = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Events of all requests, short prompts first; UserError before anything runs where a request can't be met."""
        rows = [self._row(request) for request in requests]
        if len({row.request.id for row in rows}) < len(rows):
            raise UserError("two requests have the same id: give each its own")
        with evaluating(self.model):
            for batch in self._batches(rows):
                if self.stream:
                    yield from self._in_thread(batch)
                else:
                    deltas: list[Event] = []
                    self._run(batch, deltas, threading.Event())
                    texts = {row.request.id: "" for row in batch}
                    for event in deltas:
                        texts[event.request_id] += event.text_delta
                    yield from (row.event(texts[row.request.id]) for row in batch)

    def _row(self, request: Request) -> Row:
        if request.messages is not None:
            if self.template is None:
                raise UserError("messages need a prompt template, and this model has none: set template=alpaca")
            ids = self.template.encode(request.messages, self.tokenizer, add_generation_prompt=True).input_ids
            stop = [*request.decoding.stop, *self.template.stop_strings]
        else:
            ids = [int(self.tokenizer.bos_token_id)] if adds_bos(self.tokenizer) else []
            ids += text_ids(request.prompt or "", self.tokenizer)
            stop = list(request.decoding.stop)
        if not ids:
            raise UserError(f"request '{request.id}' has an empty prompt: give it some text")
        room = self.context_length - len(ids)
        if room < 1:
            raise UserError(
                f"request '{request.id}' has a prompt of {len(ids)} tokens, and the model's context is "
                f"{self.context_length} tokens with at least one for the answer: shorten the prompt"
            )
        return Row(request, ids, min(request.decoding.max_new_tokens, room), TextStream(self.tokenizer, stop))

    def _batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows with the same way of decoding and similar length; seeds, stop texts and limits are the row's own."""
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in sorted(rows, key=lambda row: len(row.ids)):
            how = row.request.decoding
            key = (how.do_sample, how.temperature, how.top_p, how.top_k, how.num_beams, how.repetition_penalty)
            groups.setdefault(key, []).append(row)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _in_thread(self, batch: list[Row]) -> Iterator[Event]:
        """Run one batch beside the caller; when the caller leaves (Ctrl-C, close), the run ends at the next token."""
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        cancelled = threading.Event()

        class Outlet(list):
            def append(self, event: Event) -> None:
                events.put(event)

        def work() -> None:
            try:
                if self.model.device.type == "cuda":
                    torch.cuda.set_device(self.model.device)
                self._run(batch, Outlet(), cancelled)
                events.put(None)
            except BaseException as error:  # handed to the caller, who raises it
                events.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            cancelled.set()
            thread.join()

    def _run(self, batch: list[Row], out: list[Event], cancelled: threading.Event) -> None:
        device = self.model.device
        width = max(len(row.ids) for row in batch)
        pad = self._pad_id()
        ids = torch.tensor([[pad] * (width - len(row.ids)) + row.ids for row in batch], device=device)
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in batch], device=device)
        how = batch[0].request.decoding
        ends = self._end_ids(batch)
        watcher = Watcher(batch, ends, out, cancelled, beams=how.num_beams)
        config = GenerationConfig(
            max_new_tokens=max(row.limit for row in batch),
            do_sample=False,
            num_beams=how.num_beams,
            repetition_penalty=1.0,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
            use_cache=True,
        )
        with torch.no_grad():
            generate: Any = self.model.generate
            output = generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([TokenChooser(batch, width)]),
                stopping_criteria=StoppingCriteriaList([watcher]),
            )
        if how.num_beams > 1 and not cancelled.is_set():
            for row, answer in zip(batch, output[:, width:].tolist(), strict=True):
                watcher.replay(row, answer)

    def _end_ids(self, batch: list[Row]) -> set[int]:
        own = getattr(self.model.generation_config, "eos_token_id", None)
        ends = own if isinstance(own, list) else [own]
        ends = [*ends, self.tokenizer.eos_token_id]
        if self.template is not None and any(row.request.messages is not None for row in batch):
            ends += self.template.stop_token_ids(self.tokenizer)
        return {int(number) for number in ends if number is not None}

    def _pad_id(self) -> int:
        choices = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(int(number) for number in choices if number is not None)


class Watcher(StoppingCriteria):
    """Follows every row token by token, and says which rows are done."""

    def __init__(self, rows: list[Row], ends: set[int], out: list[Event], cancelled: threading.Event, beams: int):
        self.rows, self.ends, self.out, self.cancelled, self.beams = rows, ends, out, cancelled, beams

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:  # type: ignore[override]
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if self.cancelled.is_set():
            return done.fill_(True)  # type: ignore[return-value]
        if self.beams > 1:
            return done  # type: ignore[return-value]
        flags = []
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish_reason is None:
                self.take(row, token)
            flags.append(row.finish_reason is not None)
        return torch.tensor(flags, device=input_ids.device)  # type: ignore[return-value]

    def take(self, row: Row, token: int) -> None:
        """Account for one new token of a row."""
        row.tokens += 1
        delta = ""
        if token in self.ends:
            row.finish_reason = "stop"
        else:
            delta = row.text.push(token)
            if row.text.stopped:
                row.finish_reason = "stop"
            elif row.tokens >= row.limit:
                row.finish_reason = "length"
        if row.finish_reason is not None:
            delta += row.text.finish()
            if row.text.stopped:
                row.finish_reason = "stop"
        if delta or row.finish_reason is not None:
            self.out.append(row.event(delta))

    def replay(self, row: Row, answer: list[int]) -> None:
        """Take the tokens of a finished beam, up to its end."""
        for token in answer:
            if row.finish_reason is None:
                self.take(row, token)


class TokenChooser(LogitsProcessor):
    """Repetition penalty and sampling, row by row; what is drawn becomes the only possible token."""

    def __init__(self, rows: list[Row], width: int):
        self.how = rows[0].request.decoding
        self.padding = [width - len(row.ids) for row in rows]
        self.streams = [_stream(row.request.decoding.seed) for row in rows] if self.how.do_sample else []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.how.repetition_penalty != 1.0:
            scores = self._penalised(input_ids, scores)
        return self._drawn(scores) if self.how.do_sample else scores

    def _penalised(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        repeat = len(input_ids) // len(self.padding)  # beams
        padding = torch.tensor(self.padding, device=input_ids.device).repeat_interleave(repeat)[:, None]
        is_pad = torch.arange(input_ids.shape[1], device=input_ids.device)[None] < padding
        seen = torch.where(is_pad, input_ids[:, -1:], input_ids)
        old = scores.gather(1, seen)
        penalty = self.how.repetition_penalty
        return scores.scatter(1, seen, torch.where(old < 0, old * penalty, old / penalty))

    def _drawn(self, scores: torch.Tensor) -> Any:
        logits = scores.float().cpu() / self.how.temperature
        if 0 < self.how.top_k < logits.shape[1]:
            least = logits.topk(self.how.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probabilities = logits.softmax(dim=1)
        if self.how.top_p < 1:
            ordered, order = probabilities.sort(dim=1, descending=True)
            surplus = ordered.cumsum(dim=1) - ordered >= self.how.top_p
            probabilities = probabilities.masked_fill(surplus.scatter(1, order, surplus), 0.0)
        pairs = zip(probabilities, self.streams, strict=True)
        drawn = torch.cat([torch.multinomial(row, 1, generator=stream) for row, stream in pairs])
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, drawn[:, None].to(scores.device), 0.0)


def _stream(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


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
