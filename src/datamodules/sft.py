"""Supervised fine-tuning data: instruction files → rendered conversations → packed rows with loss on answers only.

Records are alpaca (``instruction``, ``input``, ``output``) or OpenAI-style ``messages``, in JSON or JSONL, each turned
into tokens by a prompt template. A conversation that does not fit into ``max_length`` is left out and counted, never
cut: half an answer teaches the model to stop in the middle.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from src.datamodules.batches import IGNORED, Segments
from src.datamodules.packed import PackedDataModule, Sources
from src.errors import UserError
from src.models.load import load_tokenizer
from src.models.spec import ModelSpec
from src.models.templates import Template, load_template, messages_from_record

log = logging.getLogger(__name__)


@dataclass
class EncodedExamples:
    """Conversations as token ids and labels, end to end in two arrays; a `Segments`."""

    ids: NDArray[np.int32]
    label_ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32] = field(init=False)
    _loss_tokens: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = np.diff(self.starts).astype(np.int32)
        trained = (self.label_ids != IGNORED).astype(np.int64)
        trained[self.starts[:-1]] = 0  # a segment's first token has nothing before it to predict it
        self._loss_tokens = np.add.reduceat(trained, self.starts[:-1]) if len(self.lengths) else np.zeros(0, np.int64)

    def tokens(self, index: int) -> NDArray[np.integer]:
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def labels(self, index: int) -> NDArray[np.integer]:
        return self.label_ids[self.starts[index] : self.starts[index + 1]]

    def loss_tokens(self, indices: NDArray[np.int64]) -> int:
        return int(self._loss_tokens[indices].sum())


@dataclass
class Report:
    """What became of the records of one file."""

    path: Path
    records: int = 0
    too_long: int = 0
    bad: int = 0
    first_bad: str = ""
    tokens: int = 0
    loss_tokens: int = 0

    def __str__(self) -> str:
        kept = self.records - self.too_long - self.bad
        text = (
            f"{self.path.name}: {kept} of {self.records} examples kept, {self.tokens} tokens, "
            f"{self.loss_tokens} of them trained ({100 * self.loss_tokens / max(self.tokens, 1):.0f} %)"
        )
        if self.too_long:
            text += f"; {self.too_long} left out because they are longer than data.max_length"
        if self.bad:
            text += f"; {self.bad} left out as malformed, the first: {self.first_bad}"
        return text


class SFTDataModule(PackedDataModule):
    """Packed conversations with loss on the assistant's turns.

    Args:
        model: whose tokenizer and, unless ``template`` names another, whose prompt template is used.
        train: JSON or JSONL file of records.
        validation: another file, or None to hold out ``validation_fraction`` of the training records by hash.
        template: a name in ``configs/prompt_template/``, a YAML file, or None for the model's own.
        packed: settings of `PackedDataModule`.
    """

    def __init__(
        self,
        model: ModelSpec,
        train: str,
        validation: str | None = None,
        validation_fraction: float = 0.02,
        template: str | None = None,
        **packed: Any,
    ) -> None:
        super().__init__(**packed)
        if isinstance(validation_fraction, str) or not 0 <= validation_fraction < 1:
            raise UserError(f"data.validation_fraction must be at least 0 and below 1, found {validation_fraction}")
        self.model, self.train_file = model, Path(train)
        self.validation_file = Path(validation) if validation else None
        self.validation_fraction, self.template_name = validation_fraction, template
        self.reports: list[Report] = []

    def load(self) -> Sources:
        tokenizer = load_tokenizer(self.model)
        template = load_template(self.template_name or self.model.template, tokenizer)
        records = list(read_records(self.train_file))
        if self.validation_file:
            held_out = list(read_records(self.validation_file))
        else:
            held_out = [record for record in records if _hash(record) < self.validation_fraction]
            records = [record for record in records if _hash(record) >= self.validation_fraction]
        train = self._encode(self.train_file, records, template, tokenizer)
        validation: dict[str, Segments] = {}
        if held_out:
            examples = self._encode(self.validation_file or self.train_file, held_out, template, tokenizer)
            if len(examples.lengths):
                validation["answers"] = examples
        if not len(train.lengths):
            raise UserError(f"no training example is left: {self.reports[0]}")
        return Sources({"answers": train}, {"answers": 1.0}, validation)

    def _encode(
        self, path: Path, records: list[dict[str, Any]], template: Template, tokenizer: PreTrainedTokenizerBase
    ) -> EncodedExamples:
        examples, report = encode_records(path, records, template, tokenizer, self.max_length)
        self.reports.append(report)
        log.info("%s", report)
        return examples


def encode_records(
    path: Path,
    records: list[dict[str, Any]],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[EncodedExamples, Report]:
    """Render and tokenize records; the report counts what was left out and why."""
    report = Report(path, records=len(records))
    ids: list[NDArray[np.int32]] = []
    labels: list[NDArray[np.int32]] = []
    for number, record in enumerate(track(records, f"encoding {path.name}", disable=len(records) < 2000), 1):
        try:
            messages = messages_from_record(record)
            if not any(message.role == "assistant" and message.content.strip() for message in messages):
                raise UserError("it has no answer to learn")
            encoded = template.encode(messages, tokenizer)
        except UserError as error:
            report.bad += 1
            report.first_bad = report.first_bad or f"record {number}: {error}"
            continue
        if len(encoded.input_ids) > max_length:
            report.too_long += 1
            continue
        token_ids = np.asarray(encoded.input_ids, np.int32)
        ids.append(token_ids)
        labels.append(np.where(encoded.loss_mask, token_ids, IGNORED).astype(np.int32))
    starts = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(example) for example in ids], out=starts[1:])
    empty = [np.zeros(0, np.int32)]
    examples = EncodedExamples(np.concatenate(ids or empty), np.concatenate(labels or empty), starts)
    report.tokens = int(examples.lengths.sum())
    report.loss_tokens = examples.loss_tokens(np.arange(len(ids)))
    return examples, report


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a ``.json`` array or a ``.jsonl`` file.

    Raises:
        UserError: the file is missing, or not JSON; with the line number.
    """
    if not path.is_file():
        made = ", or make it with python scripts/make_instructions.py" if "demo_ie" in path.parts else ""
        raise UserError(f"no instruction file at {path}: give data.train=FILE.json or FILE.jsonl{made}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it, with iconv for instance") from None
    if text.lstrip().startswith("["):
        yield from _parsed(text, f"{path}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parsed(line, f"{path}, line {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg} at character {error.pos}): mend or remove it") from None


def _hash(record: dict[str, Any]) -> float:
    """A number in [0, 1) that depends only on the record, so a held-out split never moves."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
