"""Continuous batching with a transformers model: rows join and leave a running batch between two tokens.

All rows of a batch share one key-value cache, padded on the left. A row that joins is read by itself (prefill), padded
to the others' length and put beside them; a row that ends is taken out, and padding that nobody needs any more is cut
off. Padding is masked and positions are the rows' own, so a row's logits are those it has alone. (Iteration-level
scheduling: Orca, Yu et al. 2022.)

A row whose grammar forces tokens has several to read. A step reads as many of each row as is worth the padding of the
others; the cache is put in order afterwards, so that padding stays on the left.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from src.generation.engine import Event
from src.generation.engines.row import Report, Row
from src.generation.engines.sampling import report
from src.generation.engines.token_bytes import TokenBytes

# How many tokens take as much time as a step by itself (reading the weights, starting the kernels): 8 to 12 on two
# cores with 135M parameters. GPUs compute hundreds in the time in which they read the weights.
STEP_COST = {"cpu": 10, "cuda": 500}


class Batch:
    """The rows that are being generated, and their cache.

    Args:
        model: in evaluation mode; a ``PeftModel`` with several adapters where rows ask for them by name.
        pad_id: any token id; what stands at masked places.
        names: for log probabilities.
        by_adapter: pass each row's adapter to the model.
        step_cost: how many tokens cost as much as a step by itself; 0 reads one token of each row in each step.

    Attributes:
        failed: rows that had to leave, and why; whoever reads it empties it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int,
        names: TokenBytes,
        by_adapter: bool = False,
        step_cost: int | None = None,
    ):
        self.model, self.pad_id, self.names, self.by_adapter = model, pad_id, names, by_adapter
        self.step_cost = STEP_COST.get(model.device.type, 100) if step_cost is None else step_cost
        self.rows: list[Row] = []
        self.failed: dict[Row, Exception] = {}
        self._cache: Any = None
        self._mask = torch.empty(0, 0, dtype=torch.long)  # [rows, cached tokens]

    @property
    def can_join(self) -> bool:
        """Whether rows may join now: always for an ordinary cache; other kinds can't be put side by side."""
        return not self.rows or self._is_ordinary

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, Event]]:
        """Read the prompts of new rows and choose the first token of each."""
        device = self.model.device
        width = max(len(row.prompt.ids) for row in rows)
        padded = [[self.pad_id] * (width - len(row.prompt.ids)) + row.prompt.ids for row in rows]
        mask = torch.tensor([[0] * (width - len(row.prompt.ids)) + [1] * len(row.prompt.ids) for row in rows])
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(torch.tensor(padded, device=device), mask, positions, cache, rows)
        for row in rows:
            row.seen = len(row.prompt.ids)
        if self.rows:
            self._cache, self._mask = _side_by_side(self._cache, self._mask, cache, mask)
        else:
            self._cache, self._mask = cache, mask
        self.rows += rows
        return self._advance(list(rows), logits, [1] * len(rows))

    def step(self) -> list[tuple[Row, Event]]:
        """One more token for each row, and as many of those that its grammar forces as are worth it."""
        unseen = [row.unseen() for row in self.rows]
        width = self._width([len(tokens) for tokens in unseen])
        read = [tokens[:width] for tokens in unseen]
        width = max(map(len, read))
        padding = [width - len(tokens) for tokens in read]
        ids = [[self.pad_id] * pad + tokens for pad, tokens in zip(padding, read, strict=True)]
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        firsts = torch.tensor([[row.seen - pad] for row, pad in zip(self.rows, padding, strict=True)])
        positions = (firsts + torch.arange(width)).clamp(min=0)
        self._mask = torch.cat([self._mask, mask], dim=1)
        places = width if any(row.owed for row in self.rows) else 1
        ids_there = torch.tensor(ids, device=self.model.device)
        logits = self._forward(ids_there, self._mask, positions, self._cache, self.rows, places)
        for row, tokens in zip(self.rows, read, strict=True):
            row.seen += len(tokens)
        return self._advance(list(self.rows), logits, [len(tokens) for tokens in read])

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
        if self._is_ordinary:
            self._mask = self._mask[:, padding:]
            for layer in self._cache.layers:
                places = torch.tensor(kept, device=layer.keys.device)
                layer.keys = layer.keys[places, :, padding:]
                layer.values = layer.values[places, :, padding:]
        else:
            self._cache.batch_select_indices(torch.tensor(kept, device=self.model.device))

    @property
    def _is_ordinary(self) -> bool:
        """Whether the cache holds one state for each token, which can be moved."""
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def _width(self, lengths: Sequence[int]) -> int:
        """How many tokens of each row the next step reads, of rows that have ``lengths`` to read.

        A further token of one row spares its share of a later step, and costs a padding token in each row that has
        no more to read.
        """
        if not self._is_ordinary or not self.step_cost:
            return 1
        share = self.step_cost / len(lengths)

        def gain(width: int) -> float:
            return sum(min(length, width) - 1 for length in lengths) * (1 + share) - (width - 1) * len(lengths)

        return max(range(1, max(lengths) + 1), key=gain)

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        rows: Sequence[Row],
        places: int = 1,
    ) -> torch.Tensor:
        """Logits of the last places, ``[rows, places, vocabulary]``."""
        more = {"adapter_names": [row.request.adapter or "__base__" for row in rows]} if self.by_adapter else {}
        device = ids.device
        with torch.no_grad():
            output: Any = self.model(
                input_ids=ids,
                attention_mask=None if bool(mask.all()) else mask.to(device),
                position_ids=positions.to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=places,
                **more,
            )
        return output.logits[:, -places:]  # type: ignore[no-any-return]

    def _advance(self, rows: list[Row], logits: torch.Tensor, read: Sequence[int]) -> list[tuple[Row, Event]]:
        """What rows make of logits ``[rows, places, vocabulary]``, of the last of the tokens ``read`` of each.

        A row that can't go on leaves, and `failed` says why.
        """
        likeliest = logits[:, -1].argmax(dim=1).tolist()
        events = []
        for place, row in enumerate(rows):
            try:
                found = row.advance(logits[place, -read[place] :], likeliest[place], self._reporter(row))
                events += [(row, event) for event in found]
            except Exception as error:  # a grammar that llguidance gives up on, say: nobody else's answer suffers
                self.failed[row] = error
        self.leave([row for row in rows if row.finish_reason is not None or row in self.failed])
        self._forget_taken_back()
        if self.rows and self._is_ordinary and bool((self._mask.diff(dim=1) < 0).any()):
            self._align()
        return events

    def _forget_taken_back(self) -> None:
        """Mask what was read of answers that have become shorter since, and have their last token read again."""
        for mask, row in zip(self._mask, self.rows, strict=True):
            if (surplus := row.seen - row.length + 1) > 0:
                mask[mask.nonzero()[-surplus:, 0]] = 0
                row.seen = row.length - 1

    def _reporter(self, row: Row) -> Report:
        alternatives = row.request.decoding.logprobs or 0
        return lambda logits, token: (report(logits, token, alternatives, self.names),)

    def _align(self) -> None:
        """Put masked places of the cache to the left of each row, and cut off those that all rows have."""
        order = self._mask.argsort(dim=1, stable=True)
        padding = int((self._mask == 0).sum(dim=1).min())
        self._mask = self._mask.gather(1, order)[:, padding:]
        for layer in self._cache.layers:
            places = order[:, None, padding:, None].to(layer.keys.device)
            layer.keys = torch.take_along_dim(layer.keys, places, dim=2)
            layer.values = torch.take_along_dim(layer.values, places, dim=2)


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
