"""Packed rows as tensors, the sampler that hands them to ranks, and the collator.

A batch holds ``input_ids``, ``labels`` and ``position_ids`` of shape ``[micro_batch_size, max_length]``, int64, in the
Hugging Face convention: ``labels`` are not shifted, −100 where there is no loss, and the first token of every segment
has none (nothing before it may predict it). ``position_ids`` restart at each segment, which is how attention knows
where segments end; padding at the end of a row is a segment of its own. ``loss_tokens``, int64 because
mixed precision would round a float, counts the supervised tokens of the whole global batch, see `PackedDataset`.

What is in a batch is counted here, by the loader, so that nobody has to ask a GPU: ``source`` says which source of the
mix each row is of, ``[micro_batch_size]``, and ``counts`` what it holds, ``[micro_batch_size, 3]``, see `COUNTS`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from src.datamodules.layout import with_layout
from src.datamodules.order import Place, Places, SampleOrder
from src.shards.packing import Rows

IGNORED = -100
COUNTS = ("tokens", "pairs", "supervised")
"""Columns of ``counts``: real tokens, query-key pairs within segments under a causal mask, tokens with a loss."""
ON_HOST = {"counts", "longest_segment"}
"""Keys of a batch that stay in host memory when it goes to a GPU."""
_PLACES_AT_ONCE = 1024


class Segments(Protocol):
    """Anything that can be packed: pretraining segments or encoded instruction examples."""

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Tokens of every segment, ``[segments]``; asked for once, to plan the rows."""
        ...

    def tokens(self, index: int) -> NDArray[np.integer]:
        """Token ids of a segment, ``[length]``."""
        ...

    def labels(self, index: int) -> NDArray[np.integer]:
        """Labels of a segment, ``[length]``; the first one is ignored."""
        ...

    def loss_tokens(self, indices: NDArray[np.int64]) -> int:
        """How many tokens of these segments have a loss."""
        ...


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Sample ``i`` of a run, for any ``i``: a row of packed segments.

    Each sample carries ``loss_tokens``, the supervised tokens of its whole global batch. A micro-batch divides its
    *summed* loss by ``loss_tokens`` over the number of micro-batches (accumulation steps × ranks); averaging over
    accumulation steps and ranks, as Lightning does, then gives the mean over all supervised tokens of the global batch,
    however unevenly they fall: no communication, and the same loss on any number of processes.

    Args:
        segments: one entry for each source.
        rows: how each source's segments are packed.
        order: which row of which source sample ``i`` is.
    """

    def __init__(
        self,
        segments: Sequence[Segments],
        rows: Sequence[Rows],
        order: SampleOrder,
        max_length: int,
        pad_id: int,
    ) -> None:
        self.segments, self.rows, self.order = list(segments), list(rows), order
        self.max_length, self.pad_id = max_length, pad_id
        self._loss_tokens: tuple[int, int] = (-1, 0)  # of the last global batch asked for
        self._places: tuple[int, Places] = (0, self.order.places(0, 0))  # of the last samples asked for, and the first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = self.place(index)
        row = packed_row(
            self.segments[place.source], self.rows[place.source].row(place.item), self.max_length, self.pad_id
        )
        row["source"] = torch.tensor(place.source)
        row["loss_tokens"] = torch.tensor(self.batch_loss_tokens(index // self.order.block_size))
        return row

    def batch_loss_tokens(self, batch: int) -> int:
        """Supervised tokens in one global batch."""
        if self._loss_tokens[0] != batch:
            size = self.order.block_size
            rows: dict[int, list[NDArray[np.int64]]] = {}
            for index in range(batch * size, (batch + 1) * size):
                place = self.place(index)
                rows.setdefault(place.source, []).append(self.rows[place.source].row(place.item))
            total = sum(self.segments[source].loss_tokens(np.concatenate(found)) for source, found in rows.items())
            self._loss_tokens = (batch, max(total, 1))
        return self._loss_tokens[1]

    def place(self, index: int) -> Place:
        """`SampleOrder.place`, many global batches worth at once."""
        start, places = self._places
        if not start <= index < start + len(places):
            length = -(-_PLACES_AT_ONCE // self.order.block_size) * self.order.block_size
            start = index // length * length
            end = start + length
            if self.order.total_samples is not None:
                end = min(end, self.order.total_samples)
            places = self.order.places(start, end)
            self._places = start, places
        return places[index - start]


class EvaluationDataset(Dataset[dict[str, Tensor]]):
    """The first ``used`` packed rows of one source once, in order; None: all.

    They are padded with empty rows to ``count``, so that ranks stay equal and losses are those of one process.
    """

    def __init__(
        self, segments: Segments, rows: Rows, max_length: int, pad_id: int, count: int, used: int | None = None
    ) -> None:
        self.segments, self.rows, self.max_length, self.pad_id, self.count = segments, rows, max_length, pad_id, count
        self.used = len(rows) if used is None else used

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows.row(index) if index < self.used else np.zeros(0, np.int64)
        return packed_row(self.segments, row, self.max_length, self.pad_id)


def packed_row(segments: Segments, row: NDArray[np.int64], max_length: int, pad_id: int) -> dict[str, Tensor]:
    """One row: segments end to end, then padding. Tensors of shape ``[max_length]``, and ``counts``."""
    input_ids = np.full(max_length, pad_id, np.int64)
    labels = np.full(max_length, IGNORED, np.int64)
    position_ids = np.empty(max_length, np.int64)
    end = pairs = 0
    for index in row.tolist():
        tokens = segments.tokens(index)
        start, end = end, end + len(tokens)
        input_ids[start:end] = tokens
        labels[start + 1 : end] = segments.labels(index)[1:]
        position_ids[start:end] = np.arange(end - start)
        pairs += (end - start) * (end - start + 1) // 2
    position_ids[end:] = np.arange(max_length - end)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(position_ids),
        "counts": torch.from_numpy(np.array([end, pairs, np.count_nonzero(labels != IGNORED)])),
    }


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Rows as one batch, `with_layout`; PyTorch's own collator spends more time on finding out what they are."""
    return with_layout({key: torch.stack([row[key] for row in rows]) for key in rows[0]})


class RankBatches(Sampler[list[int]]):
    """The micro-batches of one rank, from ``consumed`` samples on to ``end``, or for ever.

    A micro-step takes ``world_size × micro_batch_size`` consecutive samples, of which each rank takes
    ``micro_batch_size`` in turn: global batches, and micro-batches by their number in one, hold the same samples on any
    number of ranks. Where ``end`` is a multiple of the global batch, all ranks end with the same micro-step.
    """

    def __init__(
        self, consumed: int, micro_batch_size: int, rank: int, world_size: int, end: int | None = None
    ) -> None:
        self.consumed, self.rank, self.world_size, self.end = consumed, rank, world_size, end
        self.batch_size = micro_batch_size  # the name under which DeepSpeed's strategy looks for it

    def __iter__(self) -> Iterator[list[int]]:
        step = self.batch_size * self.world_size
        start = self.consumed
        while self.end is None or start + step <= self.end:
            first = start + self.rank * self.batch_size
            yield list(range(first, first + self.batch_size))
            start += step
