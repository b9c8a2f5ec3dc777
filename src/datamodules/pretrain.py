"""Pretraining data: token shards of several sources, mixed by weight and packed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.datamodules.mix import PER_BATCH, Mix
from src.datamodules.packed import PackedDataModule, Sources
from src.errors import UserError
from src.models.download import resolve
from src.models.spec import ModelSpec
from src.models.tokenizer import open_encoder
from src.shards.source import Source


class PretrainSegments:
    """Segments of one split of one source: every token but a segment's first is predicted."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.lengths = source.lengths

    def tokens(self, index: int) -> NDArray[np.integer]:
        return self.source.segment(index)

    labels = tokens

    def loss_tokens(self, indices: NDArray[np.int64]) -> int:
        return int(self.lengths[indices].sum()) - len(indices)


class PretrainDataModule(PackedDataModule):
    """Packed batches from the shards of ``scripts/preprocess.py``.

    Args:
        model: whose tokenizer must have made the shards.
        shards_dir: folder with one folder a source.
        sources: by source name a weight, or ``{epochs: …}``, ``{tokens: …}`` or ``{per_batch: …}``, see
            `src.datamodules.mix`.
        global_batch_distributed: by source name the rows in every global batch, KnowLM's setting; takes the place of
            ``sources``.
        packed: settings of `PackedDataModule`.
    """

    def __init__(
        self,
        model: ModelSpec,
        shards_dir: str,
        sources: Mapping[str, Any] | None = None,
        global_batch_distributed: Mapping[str, int] | None = None,
        **packed: Any,
    ) -> None:
        super().__init__(**packed)
        if global_batch_distributed:
            sources = {name: {PER_BATCH: rows} for name, rows in global_batch_distributed.items() if rows}
        mix = Mix.parse(sources, self.when_exhausted, self.global_batch_size)
        self.model, self.shards_dir = model, Path(shards_dir)
        self.mix = {name: (sources or {})[name] for name in mix.shares}

    def load(self) -> Sources:
        encoder = open_encoder(resolve(self.model), engine="reference")
        train: dict[str, Any] = {}
        validation: dict[str, Any] = {}
        for name in self.mix:
            folder = self.shards_dir / name
            if not (folder / "manifest.json").exists():
                raise UserError(
                    f"no token shards in {folder}: make them with python scripts/preprocess.py corpus=… "
                    f"model={self.model.name}, or point mix.shards_dir elsewhere"
                )
            source = Source.open(folder, "train")
            source.manifest.check_tokenizer(encoder)
            if source.manifest.max_length > self.max_length:
                raise UserError(
                    f"the segments in {folder} have up to {source.manifest.max_length} tokens and don't fit "
                    f"data.max_length={self.max_length}: preprocess again with that max_length, or raise it"
                )
            train[name] = PretrainSegments(source)
            held_out = Source.open(folder, "validation")
            if len(held_out):
                validation[name] = PretrainSegments(held_out)
        return Sources(train, self.mix, validation)
