"""``manifest.json``: what a source's shards hold, and which tokenizer and settings made them."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from src.errors import UserError
from src.shards.atomic import FileSum
from src.shards.atomic import checksum as checksum

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


class Vocabulary(Protocol):
    """What a manifest compares itself with: a `TextEncoder` is one."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...

    name: str


@dataclass
class Counts:
    """Sizes of one split. `bytes` is UTF-8 text; `tokens` includes the BOS and EOS of documents."""

    documents: int = 0
    segments: int = 0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass
class Manifest:
    """One source of token shards.

    weight: share of the source in a mix that names none.
    bad_records: records of the input that could not be read and were left out, by reason.
    empty_documents: records whose text was empty; they make no document.
    settings: everything the shards depend on, input files with size and time included; equal settings, equal shards.
    files: size and SHA-256 of each shard file by its name, which ``scripts/shards.py verify`` compares; empty in
        manifests of before they were recorded.
    """

    source: str
    tokenizer_name: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    max_length: int
    dtype: str
    weight: float = 1.0
    splits: dict[str, Counts] = field(default_factory=dict)
    bad_records: dict[str, int] = field(default_factory=dict)
    empty_documents: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileSum] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def total(self) -> Counts:
        """Counts over all splits."""
        return sum(self.splits.values(), Counts())

    def save(self, folder: str | Path) -> None:
        """Write ``manifest.json`` into the folder of the shards, atomically."""
        data = asdict(self) | asdict(self.total)
        temporary = Path(folder) / f"{FILE_NAME}.tmp"
        temporary.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, Path(folder) / FILE_NAME)

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read the manifest of a folder of shards.

        Raises:
            UserError: there is none, or it is damaged or of another version.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise UserError(
                f"{folder} holds no finished token shards (no {FILE_NAME}): run scripts/preprocess.py first"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data.get("format_version")
            if version != FORMAT_VERSION:
                raise UserError(f"{path} has format version {version}, expected {FORMAT_VERSION}: run preprocess again")
            known = {f.name for f in fields(cls)}
            manifest = cls(**{key: value for key, value in data.items() if key in known})
            manifest.splits = {name: Counts(**counts) for name, counts in data["splits"].items()}
            manifest.files = {name: FileSum(**file_sum) for name, file_sum in data.get("files", {}).items()}
        except UserError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} is not a manifest of token shards ({error}): run preprocess again") from None
        return manifest

    def check_tokenizer(self, encoder: Vocabulary) -> None:
        """Raise a `UserError` that names both tokenizers where the shards were made with another vocabulary."""
        if self.tokenizer_fingerprint != encoder.fingerprint:
            raise UserError(
                f"tokenizer '{encoder.name}' ({encoder.vocab_size} tokens, {encoder.fingerprint[:4]}…) did not make "
                f"the shards of '{self.source}' (made by '{self.tokenizer_name}', {self.vocabulary_size} tokens, "
                f"{self.tokenizer_fingerprint[:4]}…): run preprocess again with this model, or set model=… to that one"
            )
