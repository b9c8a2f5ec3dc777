"""What pretraining and tuning data have in common: packed rows, exact resume, one validation loader a source.

A subclass says where segments come from (`load`); everything after that is the same: pack them, order the rows, hand
them to ranks. The whole state of the loader is the number of samples consumed, which is the number of optimizer steps
times the global batch size, so a checkpoint resumes on any number of processes.
"""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from src.datamodules.batches import EvaluationDataset, PackedDataset, RankBatches, Segments
from src.datamodules.order import SampleOrder
from src.datamodules.packing import Rows, pack
from src.errors import UserError

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sources:
    """What `PackedDataModule.load` returns: segments by source name, and the weight of each training source."""

    train: dict[str, Segments]
    weights: dict[str, float]
    validation: dict[str, Segments]


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
        self.consumed_samples = 0
        self._loaded: Sources | None = None
        self._order: SampleOrder | None = None
        self._train_rows: list[Rows] = []
        self._validation_rows: list[Rows] = []

    @abstractmethod
    def load(self) -> Sources:
        """Read what there is to train and validate on. Called once in each process."""

    def setup(self, stage: str | None = None) -> None:
        if self._loaded is not None:
            return
        sources = self._loaded = self.load()
        self._train_rows = [pack(segments.lengths, self.max_length, self.seed) for segments in sources.train.values()]
        self._validation_rows = [
            _shuffled(pack(segments.lengths, self.max_length)) for segments in sources.validation.values()
        ]
        self._order = SampleOrder(
            sizes=[len(rows) for rows in self._train_rows],
            weights=[sources.weights[name] for name in sources.train],
            block_size=self.global_batch_size,
            seed=self.seed,
        )
        for (name, segments), rows in zip(sources.train.items(), self._train_rows, strict=True):
            fill = int(segments.lengths.sum()) / (len(rows) * self.max_length)
            log.info(
                "source %s: %d segments in %d rows, %.1f %% full", name, len(segments.lengths), len(rows), fill * 100
            )

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
    def samples_per_epoch(self) -> int:
        """Packed rows over all training sources."""
        return sum(self.order.sizes)

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
        rank, world_size = self._rank()
        batches = RankBatches(self.consumed_samples, self.micro_batch_size, rank, world_size)
        return DataLoader(self.train_dataset(), batch_sampler=batches, **self._loader_options())

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        rank, world_size = self._rank()
        loaders = []
        for segments, rows in zip(self.sources.validation.values(), self._validation_rows, strict=True):
            used = min(len(rows), self.validation_rows)
            step = self.micro_batch_size * world_size
            dataset = EvaluationDataset(segments, rows, self.max_length, self.pad_id, -(-used // step) * step)
            batches = [list(range(start + rank, start + step, world_size)) for start in range(0, len(dataset), step)]
            loaders.append(DataLoader(dataset, batch_sampler=batches, **self._loader_options()))
        return loaders

    def state_dict(self) -> dict[str, Any]:
        steps = self.trainer.global_step if self.trainer else 0
        return {"consumed_samples": steps * self.global_batch_size, "order": self.fingerprint()}

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a sample index to mean the same sample in another run."""
        tokens = {name: int(segments.lengths.sum()) for name, segments in self.sources.train.items()}
        return {**self.order.fingerprint(), "max_length": self.max_length, "tokens": tokens}

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
            "pin_memory": bool(self.trainer and self.trainer.strategy.root_device.type == "cuda"),
            "persistent_workers": self.num_workers > 0,
        }


def _shuffled(rows: Rows) -> Rows:
    """The same rows in another order: packing puts the longest segments first, and the first rows should be typical."""
    order = np.random.default_rng(0).permutation(len(rows))
    starts = np.concatenate([[0], np.cumsum(np.diff(rows.starts)[order])]).astype(np.int64)
    return Rows(np.concatenate([rows.row(index) for index in order] or [rows.segments]), starts)
