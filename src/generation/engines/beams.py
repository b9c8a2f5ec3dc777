"""Beam search, by transformers' own ``generate``: the likeliest whole answer among a few, known only at the end."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)

from src.generation.engine import Event
from src.generation.engines.row import Row


def beam_search(
    model: PreTrainedModel,
    rows: Sequence[Row],
    pad_id: int,
    by_adapter: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> list[tuple[Row, Event]]:
    """Answers of rows of one `search_key`; each in one last event.

    stopped: is called after each token; when it says so, the search ends without answers.
    """
    how, limits = rows[0].request.decoding, rows[0].prompt
    device, width = model.device, max(len(row.prompt.ids) for row in rows)
    ids = [[pad_id] * (width - len(row.prompt.ids)) + row.prompt.ids for row in rows]
    mask = [[0] * (width - len(row.prompt.ids)) + [1] * len(row.prompt.ids) for row in rows]
    config = GenerationConfig(
        max_new_tokens=limits.limit,
        do_sample=False,
        num_beams=how.num_beams,
        eos_token_id=sorted(limits.end_ids) or None,
        pad_token_id=pad_id,
        use_cache=True,
    )
    processors = LogitsProcessorList()
    if how.repetition_penalty != 1.0:
        processors.append(_RepetitionPenalty(how.repetition_penalty, rows, width))
    if limits.banned:
        processors.append(SuppressTokensLogitsProcessor(sorted(limits.banned), device=str(device)))
    # PEFT repeats the names for each beam only where it sees the number of beams as an argument
    names = [row.request.adapter or "__base__" for row in rows]
    more = {"adapter_names": names, "num_beams": how.num_beams} if by_adapter else {}
    with torch.no_grad():
        generate: Any = model.generate
        output = generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_Stopped(stopped)]),
            **more,
        )
    events = []
    for row, answer in zip(rows, output[:, width:].tolist(), strict=True):
        text, last = "", None
        for token in answer:
            if row.finish_reason is None and (event := row.take(token)) is not None:
                text, last = text + event.text_delta, event
        if last is not None and row.finish_reason is not None:
            counts = last.prompt_tokens, last.completion_tokens
            events.append((row, Event(row.request.id, text, row.finish_reason, *counts)))
    return events


def search_key(row: Row) -> Any:
    """What rows must have in common to be searched together."""
    how, prompt = row.request.decoding, row.prompt
    return how.num_beams, how.repetition_penalty, row.request.adapter, prompt.limit, prompt.end_ids, prompt.banned


class _Stopped(StoppingCriteria):
    """Ends the search when it is told to."""

    def __init__(self, stopped: Callable[[], bool]):
        self.stopped = stopped

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:  # type: ignore[override]
        return torch.full((len(input_ids),), self.stopped(), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


class _RepetitionPenalty(LogitsProcessor):
    """transformers' own, but for padding, which is no text."""

    def __init__(self, penalty: float, rows: Sequence[Row], width: int):
        self.penalty, self.padding = penalty, [width - len(row.prompt.ids) for row in rows]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        repeat = len(input_ids) // len(self.padding)  # beams
        padding = torch.tensor(self.padding, device=input_ids.device).repeat_interleave(repeat)[:, None]
        is_pad = torch.arange(input_ids.shape[1], device=input_ids.device)[None] < padding
        seen = torch.where(is_pad, input_ids[:, -1:], input_ids)
        old = scores.gather(1, seen)
        return scores.scatter(1, seen, torch.where(old < 0, old * self.penalty, old / self.penalty))  # type: ignore[return-value]
