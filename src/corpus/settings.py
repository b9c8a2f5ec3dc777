"""What a user says of a corpus: where each source comes from, and what holds for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from src.corpus.dedup.settings import DedupSettings
from src.corpus.readers import Reading
from src.corpus.sentences import Language
from src.errors import UserError

READING = {f.name for f in fields(Reading)}


@dataclass
class SourceSpec:
    """Where the text of one source comes from, and how it is read and cleaned.

    path: a file, folder or glob, or several of them; with `hub` the folder the files are downloaded to.
    hub: a data set of the Hugging Face hub, ``{repo, files, revision}``.
    reading: settings of `src.corpus.readers.Reading`, such as ``text_field``.
    cleaning: changes to the cleaning steps of the language; None for a step takes it out.
    weight: share in a mix that names none.
    generate: dotted name of a function that yields `Document`s; `path` is then the .jsonl file they are written to.
    """

    name: str
    path: str | list[str]
    language: Language
    reading: dict[str, Any] = field(default_factory=dict)
    cleaning: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    generate: str | None = None
    hub: dict[str, Any] | None = None

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> "SourceSpec":
        """Build from one entry of a corpus config, naming keys that are unknown or missing."""
        own = {f.name for f in fields(cls)} - {"name", "reading"}
        if unknown := set(config) - own - READING:
            known = ", ".join(sorted(own | READING))
            raise UserError(f"source '{name}' has the unknown setting '{min(unknown)}': known are {known}")
        if missing := {"path", "language"} - set(config):
            raise UserError(f"source '{name}' has no '{min(missing)}': every source needs path and language")
        if config["language"] not in get_args(Language):
            choices = ", ".join(get_args(Language))
            raise UserError(
                f"source '{name}' has language '{config['language']}', which has no sentence rules: {choices} do"
            )
        reading = {key: value for key, value in config.items() if key in READING}
        return cls(name=name, reading=reading, **{key: value for key, value in config.items() if key in own})


@dataclass
class Settings:
    """What holds for every source of a run.

    tokenizer: folder or file that `open_encoder` opens.
    document_bos, document_eos: spelling of the tokens around a document; None means the tokenizer's BOS where it adds
        one by itself and its EOS, an empty string means none.
    validation_fraction: share of the documents that make the validation split, chosen by hash.
    min_validation_bytes: text the validation split of a source under 64 MB holds at least, up to half of it.
    part_bytes: input read by one task; None: a 32nd of a source, 4 to 256 MB.
    cleaning: language to the cleaning steps of its texts, by name; each is a config with a ``_target_``.
    keep_work: leave the cleaned texts and the logs of the tasks in ``.work``.
    """

    tokenizer: Path
    output_dir: Path
    corpus: str = "corpus"
    tokenizer_name: str | None = None
    max_length: int = 1024
    document_bos: str | None = None
    document_eos: str | None = None
    validation_fraction: float = 0.05
    min_validation_bytes: int = 20_000
    max_bad_fraction: float = 0.05
    part_bytes: int | None = None
    cleaning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dedup: DedupSettings = field(default_factory=DedupSettings)
    overwrite: bool = False
    keep_work: bool = False

    def __post_init__(self) -> None:
        self.output_dir = Path(self.output_dir).absolute()
        self.tokenizer = Path(self.tokenizer).expanduser().absolute()
        if self.max_length < 2:
            raise UserError(
                f"max_length={self.max_length} leaves no room for text: give at least 2 tokens, such as 1024"
            )
        if self.part_bytes is not None and self.part_bytes < 1:
            raise UserError(f"part_bytes={self.part_bytes} is no size: give bytes, such as 64000000, or null")
        for name in ("validation_fraction", "max_bad_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not a fraction: give a number from 0 to below 1")
