"""Continuous batching with a transformers model: rows join and leave a running batch between two tokens.

All rows of a batch share one key-value cache, padded on the left. A row that joins is read by itself (prefill), padded
to the others' length and put beside them; a row that ends is taken out, and padding that nobody needs any more is cut
off. Padding is masked and positions are the rows' own, so a row's logits are those it has alone. (Iteration-level
scheduling: Orca, Yu et al. 2022.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from src.generation.engine import Event, FinishReason, Request, TokenLogprob
from src.generation.engines.sampling import Chooser, report
from src.generation.engines.token_bytes import TokenBytes
from src.generation.prompts import EncodedPrompt
from src.generation.text_stream import TextStream


@dataclass(eq=False)
class Row:
    """One request on its way through a batch."""

    request: Request
    prompt: EncodedPrompt
    text: TextStream
    chooser: Chooser
    answer: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt.ids) + len(self.answer)

    def take(self, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Event | None:
        """Account for one new token; the event it makes, if any text can be shown."""
        self.answer.append(token)
        self.chooser.take(token)
        delta = ""
        if token in self.prompt.end_ids:
            self.finish_reason, logprobs = "stop", ()
        else:
            delta = self.text.push(token)
            if self.text.stopped:
                self.finish_reason = "stop"
            elif len(self.answer) >= self.prompt.limit:
                self.finish_reason = "length"
        if self.finish_reason is not None:
            delta += self.text.finish()
            if self.text.stopped:
                self.finish_reason = "stop"
        if not (delta or logprobs or self.finish_reason):
            return None
        counts = len(self.prompt.ids), len(self.answer)
        return Event(self.request.id, delta, self.finish_reason, *counts, logprobs)


class Batch:
    """The rows that are being generated, and their cache.

    Args:
        model: in evaluation mode; a ``PeftModel`` with several adapters where rows ask for them by name.
        pad_id: any token id; what stands at masked places.
        names: for log probabilities.
        by_adapter: pass each row's adapter to the model.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, names: TokenBytes, by_adapter: bool = False):
        self.model, self.pad_id, self.names, self.by_adapter = model, pad_id, names, by_adapter
        self.rows: list[Row] = []
        self._cache: Any = None
        self._mask = torch.empty(0, 0, dtype=torch.long)  # [rows, cached tokens]

    @property
    def can_join(self) -> bool:
        """Whether rows may join now: always for an ordinary cache; other kinds can't be put side by side."""
        return not self.rows or all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, Event]]:
        """Read the prompts of new rows and choose the first token of each."""
        device = self.model.device
        width = max(len(row.prompt.ids) for row in rows)
        padded = [[self.pad_id] * (width - len(row.prompt.ids)) + row.prompt.ids for row in rows]
        mask = torch.tensor([[0] * (width - len(row.prompt.ids)) + [1] * len(row.prompt.ids) for row in rows])
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(torch.tensor(padded, device=device), mask, positions, cache, rows)
        if self.rows:
            self._cache, self._mask = _side_by_side(self._cache, self._mask, cache, mask)
        else:
            self._cache, self._mask = cache, mask
        self.rows += rows
        return self._advance(list(rows), logits)

    def step(self) -> list[tuple[Row, Event]]:
        """One more token for each row."""
        last = torch.tensor([[row.answer[-1]] for row in self.rows], device=self.model.device)
        positions = torch.tensor([[row.length - 1] for row in self.rows])
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        logits = self._forward(last, self._mask, positions, self._cache, self.rows)
        return self._advance(list(self.rows), logits)

    def leave(self, rows: Sequence[Row]) -> None:
        """Take rows out, finished or not."""
        gone = set(map(id, rows))
        kept = [place for place, row in enumerate(self.rows) if id(row) not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in kept]
        if not self.rows:
            self._cache, self._mask = None, torch.empty(0, 0, dtype=torch.long)
            return
        self._mask = self._mask[kept]
        padding = int((self._mask.cumsum(dim=1) == 0).sum(dim=1).min())  # at the left of every row that stays
        if all(type(layer) is DynamicLayer for layer in self._cache.layers):
            self._mask = self._mask[:, padding:]
            for layer in self._cache.layers:
                places = torch.tensor(kept, device=layer.keys.device)
                layer.keys = layer.keys[places, :, padding:]
                layer.values = layer.values[places, :, padding:]
        else:
            self._cache.batch_select_indices(torch.tensor(kept, device=self.model.device))

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, rows: Sequence[Row]
    ) -> torch.Tensor:
        """Logits of the last place, ``[rows, vocabulary]``."""
        more = {"adapter_names": [row.request.adapter or "__base__" for row in rows]} if self.by_adapter else {}
        device = ids.device
        with torch.no_grad():
            output: Any = self.model(
                input_ids=ids,
                attention_mask=None if bool(mask.all()) else mask.to(device),
                position_ids=positions.to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **more,
            )
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def _advance(self, rows: list[Row], logits: torch.Tensor) -> list[tuple[Row, Event]]:
        likeliest = logits.argmax(dim=1).tolist()
        events = []
        for place, row in enumerate(rows):
            chooser, how = row.chooser, row.request.decoding
            token = likeliest[place] if chooser.takes_likeliest else chooser.choose(logits[place])
            reported = () if how.logprobs is None else (report(logits[place], token, how.logprobs, self.names),)
            if (event := row.take(token, reported)) is not None:
                events.append((row, event))
        self.leave([row for row in rows if row.finish_reason is not None])
        return events


def _side_by_side(
    cache: Any, mask: torch.Tensor, other: Any, other_mask: torch.Tensor
) -> tuple[DynamicCache, torch.Tensor]:
    """One cache of the rows of both, each padded on the left to the longer one."""
    width = max(mask.shape[1], other_mask.shape[1])
    for layer, joining in zip(cache.layers, other.layers, strict=True):
        layer.keys = torch.cat([_widened(layer.keys, width), _widened(joining.keys, width)])
        layer.values = torch.cat([_widened(layer.values, width), _widened(joining.values, width)])
    masks = [torch.nn.functional.pad(each, (width - each.shape[1], 0)) for each in (mask, other_mask)]
    return cache, torch.cat(masks)


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values ``[rows, heads, tokens, head_dim]`` with zeros on the left up to ``width`` tokens."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
