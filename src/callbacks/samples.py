"""Text the model writes while it learns: the quickest way to see that something is wrong."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy

from src.callbacks.full_disk import going_on
from src.generation.engine import Decoding, Request
from src.generation.engines.transformers_engine import TransformersEngine
from src.models.load import load_tokenizer
from src.models.templates import Message, load_template
from src.strategies.fsdp2 import FullyShard

log = logging.getLogger(__name__)


class Samples(Callback):
    """Answers the same prompts at each validation and appends them to a JSONL file.

    Args:
        path: of the JSONL file: step, prompt, text.
        prompts: what to continue, or to answer if ``chat``.
        chat: put the prompts through the model's template.
        template: a name in ``configs/prompt_template/``, or None for the model's own.
        decoding: how to decode; greedy by default.
    """

    def __init__(
        self,
        path: str,
        prompts: Sequence[str],
        chat: bool = False,
        template: str | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        self.path, self.prompts, self.chat, self.template = Path(path), list(prompts), chat, template
        self.decoding = decoding or Decoding(max_new_tokens=32)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not self.prompts:
            return
        zero_3 = isinstance(trainer.strategy, DeepSpeedStrategy) and trainer.strategy.zero_stage_3
        sharded = zero_3 or isinstance(trainer.strategy, FullyShard)  # every process holds pieces of each layer
        if not (trainer.is_global_zero or sharded):
            return
        module: Any = pl_module
        tokenizer = load_tokenizer(module.spec)
        template = load_template(self.template or module.spec.template, tokenizer) if self.chat else None
        engine = TransformersEngine(module.model, tokenizer, template, batch_size=len(self.prompts))
        decoding = self.decoding
        if sharded and decoding.do_sample and decoding.seed is None:
            # the processes must draw the same tokens, or they wait for each other
            decoding = replace(decoding, seed=trainer.global_step)
        texts = self._generate(engine, decoding)
        if not trainer.is_global_zero:
            return
        rows = [{"step": trainer.global_step, "prompt": p, "text": t} for p, t in zip(self.prompts, texts, strict=True)]
        for row in rows:
            log.info("step %d  %r → %r", *row.values())
        with going_on(self.path.name):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _generate(self, engine: TransformersEngine, decoding: Decoding) -> list[str]:
        texts = {str(number): "" for number in range(len(self.prompts))}
        requests = [
            Request(id=str(number), messages=[Message("user", prompt)], decoding=decoding)
            if self.chat
            else Request(id=str(number), prompt=prompt, decoding=decoding)
            for number, prompt in enumerate(self.prompts)
        ]
        for event in engine.generate(requests):
            texts[event.request_id] += event.text_delta
        return list(texts.values())
