#!/usr/bin/env python
"""Raw text to token shards; see configs/preprocess.yaml."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from src.command import command
from src.corpus.dedup.settings import DedupSettings
from src.corpus.preprocess import Settings, SourceSpec, preprocess_corpus
from src.corpus.report import summary_table


@command("preprocess")
def main(cfg: DictConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = OmegaConf.to_container(cfg.settings, resolve=True)
    options["cleaning"] = OmegaConf.to_container(cfg.cleaning, resolve=True)
    options["dedup"] = DedupSettings.from_config(OmegaConf.to_container(cfg.dedup, resolve=True))
    if cfg.tokenizer is None:
        from src.models.download import resolve  # torch and transformers are only needed to fetch a model

        spec = instantiate(cfg.model)
        options |= {"tokenizer": resolve(spec), "tokenizer_name": spec.name}
        options |= {"document_bos": spec.document_bos, "document_eos": spec.document_eos}
    else:
        options |= {"tokenizer": Path(cfg.tokenizer)}
    for name in ("document_bos", "document_eos"):
        if cfg[name] is not None:
            options[name] = cfg[name]
    sources = OmegaConf.to_container(cfg.corpus.sources, resolve=True)
    specs = [SourceSpec.from_config(name, source) for name, source in sources.items()]
    report = preprocess_corpus(specs, Settings(**options), instantiate(cfg.executor))
    if report is not None:
        Console().print(summary_table(report))
        Console().print(f"what became of every document: {cfg.output_dir}/report.html", soft_wrap=True)


if __name__ == "__main__":
    main()
