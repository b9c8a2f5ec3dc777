"""Beam search, by transformers' own ``generate``: the likeliest whole answer among a few, known only at the end.

Beams change places from step to step, so each one's place in its grammar is kept by the tokens it has so far.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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
from src.generation.engines.grammar import Follower
from src.generation.engines.row import Row

CHARACTER_TOKENS = 4  # that one character has at most
Begun = tuple[int, tuple[int, ...]]  # number of a row, and the tokens of an answer so far


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
    followed = _Followed(rows, width)
    if any(row.chooser.grammar is not None for row in rows):
        processors.append(followed)
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
    for number, (row, answer) in enumerate(zip(rows, output[:, width:].tolist(), strict=True)):
        text, last = "", None
        row.ends_at = followed.end_of(number, answer)
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


@dataclass
class _Beam:
    """Where a beam stands: in the grammar, or among the tokens that close its answer."""

    follower: Follower
    closing: list[int] | None = None


class _Followed(LogitsProcessor):
    """Rules out what would leave a row's grammar, and closes answers in time."""

    def __init__(self, rows: Sequence[Row], width: int):
        self.rows, self.width = rows, width
        self._beams: dict[Begun, _Beam | None] = {}
        self._ends: dict[Begun, int] = {}  # tokens of answers that were closed

    def end_of(self, row: int, answer: Sequence[int]) -> int | None:
        """Tokens of an answer that was closed; None for one that was not."""
        beginnings = (tuple(answer[:length]) for length in range(len(answer) + 1))
        return next((self._ends[row, begun] for begun in beginnings if (row, begun) in self._ends), None)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        each = len(input_ids) // len(self.rows)
        beams: dict[Begun, _Beam | None] = {}
        masks = np.ones(scores.shape, dtype=bool)
        for place, answer in enumerate(input_ids[:, self.width :].tolist()):
            row, begun = place // each, tuple(answer)
            if self.rows[row].chooser.grammar is None:
                continue
            if (row, begun) not in beams:
                beams[row, begun] = self._beam(row, begun)
            masks[place] = self._allowed(row, begun, beams[row, begun], scores[place], each)
        self._beams = beams
        return scores.masked_fill(~torch.from_numpy(masks).to(scores.device), -torch.inf)  # type: ignore[return-value]

    def _beam(self, row: int, begun: tuple[int, ...]) -> _Beam | None:
        """One step on from the beam it comes from; None for one that left the grammar, which no search ends with."""
        if not begun:
            grammar = self.rows[row].chooser.grammar
            return _Beam(grammar) if grammar is not None else None
        *before, token = begun
        parent = self._beams.get((row, tuple(before)))
        if parent is None:
            return None
        if parent.closing is not None:
            return _Beam(parent.follower, parent.closing[1:]) if parent.closing[:1] == [token] else None
        follower = parent.follower.after(token)
        return None if follower is None else _Beam(follower)

    def _allowed(
        self, number: int, begun: tuple[int, ...], beam: _Beam | None, scores: torch.Tensor, each: int
    ) -> np.ndarray:
        """Tokens that may come next, ``[vocabulary]`` of booleans."""
        row, none = self.rows[number], np.zeros(len(scores), dtype=bool)
        if beam is None:
            return none
        room = row.prompt.limit - len(begun) - 1  # tokens after the next
        if beam.closing is None:
            found = none.copy()
            allowed = beam.follower.allowed()[: len(none)]
            found[: len(allowed)] = allowed
            if not beam.follower.may_close(room - CHARACTER_TOKENS):
                return found
            fitting = self._fitting(row, begun, beam.follower, scores.float().cpu().numpy(), found, room, each)
            if fitting:
                none[fitting] = True
                return none
            beam.closing = beam.follower.closing(beam.follower.spelled(begun)[0])
            self._ends[number, begun] = len(begun) + len(beam.closing)
        none[beam.closing[:1] or sorted(row.prompt.end_ids)] = True
        return none

    def _fitting(
        self,
        row: Row,
        begun: tuple[int, ...],
        follower: Follower,
        scores: np.ndarray,
        allowed: np.ndarray,
        room: int,
        each: int,
    ) -> list[int]:
        """The likeliest of the allowed tokens that leave room to complete the answer; none if the likeliest does not.

        As many as a search can take from one beam.
        """
        most = each * max(2, 1 + len(row.prompt.end_ids))
        whole, is_whole = follower.spelled(begun)
        candidates = np.flatnonzero(allowed)
        candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
        fitting: list[int] = []
        for token in candidates[:most] if is_whole else candidates:
            if token in row.prompt.end_ids:
                fits = True
            else:
                text, ends_whole = follower.spelled((*begun, int(token)))
                needed = len(follower.closing(text)) if ends_whole else len(follower.closing(whole)) + CHARACTER_TOKENS
                fits = needed <= room
            if fits:
                fitting.append(int(token))
            elif is_whole and not fitting:
                return []
            if len(fitting) == most:
                break
        return fitting
