"""What pretraining and tuning data have in common: packed rows, exact resume, one validation loader a source.

A subclass says where segments come from (`load`); everything after that is the same: pack them, order the rows, hand
them to ranks. The whole state of the loader is the number of samples consumed, which is the number of optimizer steps
times the global batch size, so a checkpoint resumes on any number of processes.
"""

import logging
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src.datamodules.batches import ON_HOST, EvaluationDataset, PackedDataset, RankBatches, Segments, collate
from src.datamodules.mix import Mix, describe
from src.datamodules.order import SampleOrder
from src.errors import UserError
from src.shards.packing import Rows, pack

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sources:
    """What `PackedDataModule.load` returns: segments by source name, and how training sources are mixed.

    mix: a weight for each training source, or another setting that `Mix.parse` knows.
    """

    train: dict[str, Segments]
    mix: Mapping[str, Any]
    validation: dict[str, Segments]


class TimedLoader(DataLoader[Batch]):
    """A loader that adds up how long it let others wait, in ``waited_s``."""

    waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        start = time.perf_counter()
        for batch in super().__iter__():
            self.waited_s += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


class PackedDataModule(L.LightningDataModule):
    """Batches of packed rows, ``[micro_batch_size, max_length]``.

    Args:
        max_length: tokens in a row.
        micro_batch_size: rows that go through the model at once on one device.
        global_batch_size: rows in an optimizer step over all devices; must be a multiple of
            ``micro_batch_size × devices``.
        num_workers: loader processes; packing a row is cheap, so 0 is right on small machines.
        seed: of the order of samples.
        validation_rows: at most so many packed rows of each source are used to validate.
        pad_id: token that fills rows up; it never has a loss and no segment sees it.
        when_exhausted: what happens when every row of a source was read: ``repeat``, ``stop`` or ``reweight``, see
            `SampleOrder`.
    """

    def __init__(
        self,
        max_length: int,
        micro_batch_size: int,
        global_batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        validation_rows: int = 64,
        pad_id: int = 0,
        when_exhausted: str = "repeat",
    ) -> None:
        super().__init__()
        for name, value in {
            "max_length": max_length,
            "micro_batch_size": micro_batch_size,
            "global_batch_size": global_batch_size,
        }.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"data.{name} must be a whole number of at least 1, found {value!r}")
        if global_batch_size % micro_batch_size:
            raise UserError(
                f"data.global_batch_size={global_batch_size} is not a multiple of "
                f"data.micro_batch_size={micro_batch_size}: change one of them"
            )
        self.max_length, self.micro_batch_size, self.global_batch_size = max_length, micro_batch_size, global_batch_size
        self.num_workers, self.seed, self.validation_rows, self.pad_id = num_workers, seed, validation_rows, pad_id
        self.when_exhausted = when_exhausted
        self.consumed_samples = 0
        self._loaded: Sources | None = None
        self._order: SampleOrder | None = None
        self._train_rows: list[Rows] = []
        self._validation_rows: list[Rows] = []
        self._train_loader: TimedLoader | None = None

    @abstractmethod
    def load(self) -> Sources:
        """Read what there is to train and validate on. Called once in each process."""

    def setup(self, stage: str | None = None) -> None:
        if self._loaded is None:
            self._plan()
        if stage == "fit" and self.trainer is not None:
            loop = self.trainer.fit_loop.epoch_loop  # or Lightning would read the last samples again and again
            loop.max_steps = self.limit_steps(loop.max_steps)

    def _plan(self) -> None:
        sources = self._loaded = self.load()
        mix = Mix.parse(sources.mix, self.when_exhausted, self.global_batch_size)
        self._train_rows = [pack(segments.lengths, self.max_length, self.seed) for segments in sources.train.values()]
        self._validation_rows = [
            _shuffled(pack(segments.lengths, self.max_length)) for segments in sources.validation.values()
        ]
        tokens = {name: int(segments.lengths.sum()) for name, segments in sources.train.items()}
        rows = {name: len(packed) for name, packed in zip(sources.train, self._train_rows, strict=True)}
        self._order = mix.order(rows, tokens, self.global_batch_size, self.seed)
        for name, segments in sources.train.items():
            fill = 100 * tokens[name] / (rows[name] * self.max_length)
            log.info("source %s: %d segments in %d rows, %.1f %% full", name, len(segments.lengths), rows[name], fill)
        if not sources.validation:
            log.info("no source holds anything out: the run is not validated")
        for sentence in describe(self._order, list(rows)):
            log.info("%s", sentence)

    @property
    def sources(self) -> Sources:
        self.setup()
        assert self._loaded is not None
        return self._loaded

    @property
    def order(self) -> SampleOrder:
        self.setup()
        assert self._order is not None
        return self._order

    @property
    def total_samples(self) -> int | None:
        """Rows in all global batches of the mix; None for one that repeats its sources for ever."""
        blocks = self.order.whole_blocks
        return None if blocks is None else blocks * self.global_batch_size

    @property
    def samples_per_epoch(self) -> int:
        """Rows of the whole mix where it has an end, else packed rows over all training sources."""
        return self.total_samples or sum(self.order.sizes)

    def limit_steps(self, steps: int) -> int:
        """``steps`` (-1: no limit), or fewer where the mix ends before; says so in the log."""
        available = self.order.whole_blocks
        if available is None or 0 <= steps <= available:
            return steps
        if steps >= 0:
            log.warning("the mix has %d global batches: training ends there and not after %d steps", available, steps)
        return available

    @property
    def validation_names(self) -> list[str]:
        """Source names in the order of the validation loaders."""
        return list(self.sources.validation)

    def micro_batches(self, world_size: int) -> int:
        """Micro-batches in a global batch, over accumulation steps and ranks.

        Raises:
            UserError: the global batch can't be shared out evenly.
        """
        step = self.micro_batch_size * world_size
        if self.global_batch_size % step:
            raise UserError(
                f"data.global_batch_size={self.global_batch_size} can't be shared by {world_size} devices with "
                f"data.micro_batch_size={self.micro_batch_size}: make it a multiple of {step}"
            )
        return self.global_batch_size // self.micro_batch_size

    def train_dataset(self) -> PackedDataset:
        sources = self.sources
        return PackedDataset(
            list(sources.train.values()),
            self._train_rows,
            self.order,
            self.max_length,
            self.pad_id,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.train_loader(*self._rank())

    def train_loader(self, rank: int, world_size: int) -> TimedLoader:
        """The micro-batches of one rank, from the samples consumed on to the end of the mix."""
        batches = RankBatches(self.consumed_samples, self.micro_batch_size, rank, world_size, self.total_samples)
        self._train_loader = TimedLoader(self.train_dataset(), batch_sampler=batches, **self._loader_options())
        return self._train_loader

    @property
    def waited_s(self) -> float:
        """Seconds that training has waited for its loader in this process."""
        return 0.0 if self._train_loader is None else self._train_loader.waited_s

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Everything but `ON_HOST`, without waiting: to a GPU the loader's memory is pinned."""
        return {key: value if key in ON_HOST else value.to(device, non_blocking=True) for key, value in batch.items()}

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        rank, world_size = self._rank()
        loaders = []
        for segments, rows in zip(self.sources.validation.values(), self._validation_rows, strict=True):
            used = min(len(rows), self.validation_rows)
            step = self.micro_batch_size * world_size
            dataset = EvaluationDataset(segments, rows, self.max_length, self.pad_id, -(-used // step) * step, used)
            batches = [list(range(start + rank, start + step, world_size)) for start in range(0, len(dataset), step)]
            loaders.append(DataLoader(dataset, batch_sampler=batches, **self._loader_options()))
        return loaders

    def state_dict(self) -> dict[str, Any]:
        steps = self.trainer.global_step if self.trainer else 0
        return {"consumed_samples": steps * self.global_batch_size, "order": self.fingerprint()}

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a sample index to mean the same sample in another run."""
        tokens = {name: int(segments.lengths.sum()) for name, segments in self.sources.train.items()}
        names = list(tokens)  # equal dictionaries may have them in another order
        return {**self.order.fingerprint(), "max_length": self.max_length, "sources": names, "tokens": tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the samples a checkpoint has consumed.

        Raises:
            UserError: the checkpoint was made with another order of samples, so continuing would repeat some.
        """
        ours, theirs = self.fingerprint(), state_dict["order"]
        different = [key for key in ours if ours[key] != theirs.get(key)]
        if different:
            changes = ", ".join(f"{key} was {theirs.get(key)} and is {ours[key]}" for key in different)
            raise UserError(
                f"the checkpoint can't be resumed on this data, some samples would repeat: {changes}; give the same "
                "settings, or start a new run from its export with model=…"
            )
        self.consumed_samples = state_dict["consumed_samples"]

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": bool(self.trainer and self.trainer.strategy.root_device.type == "cuda"),
            "persistent_workers": self.num_workers > 0,
        }


def _shuffled(rows: Rows) -> Rows:
    """The same rows in another order: packing puts the longest segments first, and the first rows should be typical."""
    order = np.random.default_rng(0).permutation(len(rows))
    starts = np.concatenate([[0], np.cumsum(np.diff(rows.starts)[order])]).astype(np.int64)
    return Rows(np.concatenate([rows.row(index) for index in order] or [rows.segments]), starts)
