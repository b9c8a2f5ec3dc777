"""Scores of extraction during a training: how well the model in training extracts, not only how well it predicts.

In an experiment::

    callbacks:
      extraction:
        _target_: src.extraction.training.callback.ExtractionScores
        samples: data/ie/conll04/dev.jsonl
        schema: conll04
        task: ner
        limit: 32
"""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy

from src.errors import UserError
from src.extraction.extractor import Extractor
from src.extraction.schema import Schema, Task
from src.extraction.scoring.evaluation import GoldSet, evaluate_in_step, read_gold
from src.extraction.scoring.scoring import Counts
from src.generation.engines.transformers_engine import TransformersEngine
from src.models.load import load_tokenizer
from src.models.templates import load_template
from src.strategies.fsdp2 import FullyShard

log = logging.getLogger(__name__)


class ExtractionScores(Callback):
    """Extracts from the same annotated texts at each validation and logs micro precision, recall and F1 in percent.

    Logged are ``val/NAME_f1``, ``val/NAME_precision``, ``val/NAME_recall`` and ``val/NAME_unreadable``, the share of
    answers that could not be read. Ranks share the texts; where each holds pieces of every layer all read all texts.

    Args:
        samples: file of annotated texts (`src.extraction.readers.read`).
        schema: whatever `src.extraction.readers.schemas.read_schema` takes.
        task: ner, re, spo, ee, eet, eea, kg.
        limit: texts, from the top of the file.
        name: of the metrics; two of these callbacks need two.
        every_n_validations: leave others out.
        readable: call types by the readable names of the schema's file, as the training data do.
        template: a name in ``configs/prompt_template/``, or None for the model's own.
        batch_size: texts answered together.
        options: of the `Extractor`: format, constraint, split_num, max_new_tokens, ….

    Raises:
        UserError: ``every_n_validations`` is below 1; when training starts, what
            `src.extraction.scoring.evaluation.read_gold` raises.
    """

    def __init__(
        self,
        samples: str,
        schema: Any,
        task: str,
        limit: int | None = 32,
        name: str = "extraction",
        every_n_validations: int = 1,
        readable: bool = False,
        template: str | None = None,
        batch_size: int = 8,
        **options: Any,
    ) -> None:
        if every_n_validations < 1:
            raise UserError(f"every_n_validations is {every_n_validations}: it must be 1 or more")
        self.name, self.every_n_validations, self.template = name, every_n_validations, template
        self.batch_size = batch_size
        self.options: dict[str, Any] = {"constraint": "free", "max_new_tokens": 256} | options
        self._samples, self._schema, self._task = samples, schema, Task.named(task)
        self._readable, self._limit = readable, limit
        self._gold = GoldSet((), Schema(), self._task, {})
        self._validations = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the annotated texts, before the first step."""
        self._gold = read_gold(self._samples, self._schema, self._task, readable=self._readable, limit=self._limit)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations:
            return
        sharded = is_sharded(trainer)
        own = self._gold if sharded else _part(self._gold, trainer.global_rank, trainer.world_size)
        counts = self._counts(pl_module, own) if own.samples else torch.zeros(5, dtype=torch.float64)
        if not sharded:
            counts = trainer.strategy.reduce(counts.to(pl_module.device), reduce_op="sum").cpu()
        right, found, expected, unreadable, answers = counts.tolist()
        scores = Counts(round(right), round(found), round(expected))
        values = {"f1": scores.f1, "precision": scores.precision, "recall": scores.recall}
        values["unreadable"] = unreadable / max(answers, 1)
        for key, value in values.items():
            pl_module.log(f"val/{self.name}_{key}", value, on_epoch=True)
        log.info("%s", ", ".join(f"{self.name} {key} {value:.2f}" for key, value in values.items()))

    def _counts(self, pl_module: L.LightningModule, gold: GoldSet) -> torch.Tensor:
        """Units right, found and expected, unreadable answers, answers: ``[5]``."""
        module: Any = pl_module
        tokenizer = load_tokenizer(module.spec)
        template = load_template(self.template or module.spec.template, tokenizer)
        engine = TransformersEngine(module.model, tokenizer, template, batch_size=self.batch_size)
        report = evaluate_in_step(Extractor(engine, **self.options), gold).report
        total = next(iter(report.scores[gold.task].values())).total
        numbers = total.right, total.found, total.expected, report.failed, report.statuses.total()
        return torch.tensor(numbers, dtype=torch.float64)


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether every process holds pieces of each layer, so that all must generate together."""
    strategy = trainer.strategy
    return isinstance(strategy, FullyShard) or (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3)


def _part(gold: GoldSet, rank: int, ranks: int) -> GoldSet:
    return GoldSet(gold.samples[rank::ranks], gold.schema, gold.task, gold.by_topic)
