"""Packed rows of an epoch, counted without a model: from the lengths in token shards, or by encoding instructions."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.datamodules.mix import PER_BATCH, Mix
from src.datamodules.pretrain import manifest_weights
from src.errors import UserError
from src.models.download import is_cached
from src.models.spec import ModelSpec
from src.shards.manifest import FILE_NAME
from src.shards.packing import pack
from src.shards.source import Source


def count_rows(cfg: DictConfig, spec: ModelSpec) -> int:
    """Rows of the whole mix where it has an end, else of all sources together, as `PackedDataModule` counts them.

    Raises:
        UserError: the data, or the tokenizer that it would be encoded with, is not here.
    """
    if "shards_dir" in cfg.data:
        return _rows_of_shards(cfg.data)
    if OmegaConf.is_missing(cfg.data, "train") or not Path(cfg.data.train).is_file():
        raise UserError("there is no file of records at data.train")
    if not is_cached(spec):
        raise UserError(f"the tokenizer of {spec.name} is not here")
    from hydra.utils import instantiate

    datamodule = instantiate(cfg.data, _partial_=True, _convert_="all")(model=spec)  # or Hydra makes a dict of the spec
    return int(datamodule.samples_per_epoch)


def _rows_of_shards(data: DictConfig) -> int:
    folder = Path(data.shards_dir)
    sources: Any = OmegaConf.to_container(data.sources, resolve=True) if data.get("sources") else None
    if data.get("global_batch_distributed"):
        sources = {name: {PER_BATCH: rows} for name, rows in data.global_batch_distributed.items() if rows}
    mix = Mix.parse(sources or manifest_weights(folder), data.when_exhausted, data.global_batch_size)
    rows, tokens = dict[str, int](), dict[str, int]()
    for name in mix.shares:
        if not (folder / name / FILE_NAME).exists():
            raise UserError(f"no token shards in {folder / name}")
        lengths = Source.open(folder / name, "train").lengths
        if len(lengths) and lengths.max() > data.max_length:
            raise UserError(f"segments in {folder / name} don't fit data.max_length={data.max_length}")
        rows[name], tokens[name] = len(pack(lengths, data.max_length, data.seed)), int(lengths.sum())
    order = mix.order(rows, tokens, data.global_batch_size, data.seed)
    blocks = order.whole_blocks
    return sum(order.sizes) if blocks is None else int(blocks) * int(data.global_batch_size)
