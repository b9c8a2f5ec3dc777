"""Pretraining data: token shards of several sources, mixed by weight and packed."""

import logging
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
from src.shards.manifest import FILE_NAME, Manifest
from src.shards.source import Source

log = logging.getLogger(__name__)


class PretrainSegments:
    """Segments of one split of one source: every token but a segment's first is predicted.

    A loader process gets it without the lengths of all segments, and asks for those of the segments it reads.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def lengths(self) -> NDArray[np.integer]:
        return self.source.lengths

    def tokens(self, index: int) -> NDArray[np.integer]:
        return self.source.segment(index)

    labels = tokens

    def loss_tokens(self, indices: NDArray[np.int64]) -> int:
        return int(self.source.lengths_of(indices).sum()) - len(indices)


class PretrainDataModule(PackedDataModule):
    """Packed batches from the shards of ``scripts/preprocess.py``.

    Args:
        model: whose tokenizer must have made the shards.
        shards_dir: folder with one folder a source.
        sources: by source name a weight, or ``{epochs: …}``, ``{tokens: …}`` or ``{per_batch: …}``, see
            `src.datamodules.mix`; None: every finished source in ``shards_dir``, by the weight in its manifest.
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
        self.model, self.shards_dir = model, Path(shards_dir)
        self.mix = None if sources is None else self._checked(sources)

    def _checked(self, sources: Mapping[str, Any]) -> dict[str, Any]:
        """The sources of a mix that are not left out."""
        mix = Mix.parse(sources, self.when_exhausted, self.global_batch_size)
        return {name: sources[name] for name in mix.shares}

    def _found(self) -> dict[str, Any]:
        """Every finished source by the weight in its manifest."""
        found = manifest_weights(self.shards_dir)
        if not found:
            raise UserError(
                f"no token shards in {self.shards_dir}: make them with python scripts/preprocess.py corpus=… "
                f"model={self.model.name}, or point mix.shards_dir elsewhere"
            )
        said = ", ".join(f"{name} {weight:g}" for name, weight in found.items())
        log.info("mix.sources is null: the sources in %s by the weights in their manifests: %s", self.shards_dir, said)
        return self._checked(found)

    def load(self) -> Sources:
        mix = self._found() if self.mix is None else self.mix
        encoder = open_encoder(resolve(self.model), engine="reference")
        train: dict[str, Any] = {}
        validation: dict[str, Any] = {}
        for name in mix:
            folder = self.shards_dir / name
            if not (folder / FILE_NAME).exists():
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
            held_out = source.manifest.splits.get("validation")
            if held_out is not None and held_out.segments:
                validation[name] = PretrainSegments(Source.open(folder, "validation"))
        return Sources(train, mix, validation)


def manifest_weights(shards_dir: Path) -> dict[str, float]:
    """The weight in the manifest of each finished source in a folder, by the names of their folders, sorted."""
    folders = sorted(path.parent for path in shards_dir.glob(f"*/{FILE_NAME}"))
    return {folder.name: Manifest.load(folder).weight for folder in folders if not folder.name.startswith(".")}
