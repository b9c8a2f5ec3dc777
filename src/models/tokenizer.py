"""Open a tokenizer without torch or transformers: what the corpus pipeline encodes with.

Two kinds of vocabulary, each with the library that defines its ids: `tokenizers` for a Hugging Face folder with
``tokenizer.json``, `sentencepiece` for a bare ``tokenizer.model``. `src.models.text_encoder` says what they have in
common and when a faster engine takes their place.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import sentencepiece
import tokenizers

from src.errors import UserError
from src.models.fast_tokenizer import BLANK, check_description, describe_sentencepiece, give_memory_back
from src.models.text_encoder import Engine, TextEncoder

__all__ = ["Engine", "TextEncoder", "open_encoder"]


def open_encoder(path: str | Path, name: str | None = None, engine: Engine = "auto") -> TextEncoder:
    """Open the tokenizer of a Hugging Face folder, a ``tokenizer.json`` or a SentencePiece ``.model`` file.

    A folder is opened with `tokenizers` where it has ``tokenizer.json``, else with `sentencepiece`.

    Args:
        name: what to call it; by default the name of the folder it lies in.
        engine: ``auto`` encodes with `fastokens` where it is exact, ``fastokens`` insists on it, and ``reference``
            takes the library that defines the ids, which opens soonest: enough for who does not encode.

    Raises:
        UserError: nothing is there, it is not a tokenizer, or `fastokens` was asked for and is not exact.
    """
    if engine not in get_args(Engine):
        raise UserError(f"engine '{engine}' is unknown: choose one of {', '.join(get_args(Engine))}")
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"tokenizer {path} does not exist: give a folder with tokenizer.json or a tokenizer.model file")
    file = path
    if path.is_dir():
        found = [path / file for file in ("tokenizer.json", "tokenizer.model") if (path / file).is_file()]
        if not found:
            raise UserError(f"{path} holds neither tokenizer.json nor tokenizer.model: give a folder with one of them")
        file = found[0]
    name = name or file.resolve().parent.name
    encoder = _JsonEncoder(file, name) if file.suffix == ".json" else _SentencePieceEncoder(file, name)
    encoder.choose_engine(engine)
    return encoder


class _JsonEncoder(TextEncoder):
    """Byte-level BPE or SentencePiece-like vocabularies; the reference is `tokenizers`."""

    reference = "tokenizers"

    def __init__(self, file: Path, name: str) -> None:
        self.file = file
        by_token = self._engine.get_vocab(with_added_tokens=True)
        tokens = [""] * (max(by_token.values(), default=-1) + 1)
        for token, index in by_token.items():
            tokens[index] = token
        description = json.loads(file.read_text(encoding="utf-8"))
        self._style = _vocabulary_style(description)
        self._identity = _only_marks_blanks(description.get("normalizer"))
        super().__init__(file, name, tokens, self._lengths(tokens, description))
        settings = _read_settings(file.parent)
        self.bos_id = self._special(settings, "bos_token", ("<s>", "<|begin_of_text|>"))
        self.eos_id = self._special(settings, "eos_token", ("</s>", "<|end_of_text|>", "<|endoftext|>"))
        first = self._engine.encode("").ids[:1]
        self.adds_bos = bool(settings.get("add_bos_token", self.bos_id is not None and first == [self.bos_id]))

    def _lengths(self, tokens: list[str], description: dict[str, Any]) -> np.ndarray:
        if self._style == "bytes":
            alphabet = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
            lengths = [len(token) if alphabet.issuperset(token) else _utf8(token) for token in tokens]
        else:
            fallback = bool(description.get("model", {}).get("byte_fallback"))
            lengths = [1 if fallback and _is_byte(token) else _utf8(token.replace(BLANK, " ")) for token in tokens]
        for added in description.get("added_tokens", []):
            lengths[added["id"]] = 0 if added.get("special") else _utf8(added["content"])
        unknown = description.get("model", {}).get("unk_token")
        if unknown in tokens:
            lengths[tokens.index(unknown)] = 0
        return np.array(lengths, dtype=np.int32)

    def _special(self, settings: dict[str, Any], key: str, usual: tuple[str, ...]) -> int | None:
        token = settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if not settings:  # a bare tokenizer.json says nothing about roles
            token = next((spelling for spelling in usual if spelling in self._ids), None)
        return self._ids.get(token) if token else None

    @functools.cached_property
    def _engine(self) -> tokenizers.Tokenizer:
        try:
            engine = tokenizers.Tokenizer.from_str(self.file.read_text(encoding="utf-8"))
        except Exception as error:  # the engine raises bare Exception
            raise UserError(f"{self.file} is not a tokenizer that the tokenizers library can read: {error}") from None
        engine.no_padding()
        engine.no_truncation()
        engine.encode_special_tokens = True
        return engine

    def _close_reference(self) -> None:
        del self._engine  # tens of megabytes; opened again where it is needed
        give_memory_back()

    def _encode_reference(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _describe(self) -> str:
        description = self.file.read_text(encoding="utf-8")
        check_description(description)
        return description

    def _spell(self, ids: Sequence[int]) -> str:
        return self._engine.decode(list(ids), skip_special_tokens=False)

    def _keeps_text(self, text: str) -> bool:
        if self._style == "other":
            return False
        return self._identity or self._engine.normalizer.normalize_str(text) == text

    def _engine_ends(self, ids: np.ndarray, text: str) -> np.ndarray:
        encoding = self._engine.encode(text, add_special_tokens=False)
        self._check_same(ids, encoding.ids)
        ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
        return _byte_starts(text)[ends]


class _SentencePieceEncoder(TextEncoder):
    """A SentencePiece model, BPE or unigram, with or without byte fallback; the reference is `sentencepiece`."""

    reference = "sentencepiece"

    def __init__(self, file: Path, name: str) -> None:
        try:
            self._engine = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except Exception as error:  # the engine raises RuntimeError or OSError by the kind of damage
            raise UserError(f"{file} is not a SentencePiece model: {error}") from None
        engine = self._engine
        tokens = [engine.id_to_piece(index) for index in range(engine.get_piece_size())]
        lengths = np.array([_utf8(token.replace(BLANK, " ")) for token in tokens], dtype=np.int32)
        for index in range(len(tokens)):
            if engine.is_byte(index):
                lengths[index] = 1
            elif engine.is_control(index) or engine.is_unknown(index):
                lengths[index] = 0
        super().__init__(file, name, tokens, lengths)
        self.bos_id = engine.bos_id() if engine.bos_id() >= 0 else None
        self.eos_id = engine.eos_id() if engine.eos_id() >= 0 else None
        # Llama's convention, which tokenizer_config.json may overrule
        self.adds_bos = self.bos_id is not None and bool(_read_settings(file.parent).get("add_bos_token", True))

    def _encode_reference(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        return self._engine.encode(list(texts), return_type="numpy", num_threads=1)

    def _describe(self) -> str:
        return describe_sentencepiece(self.file.read_bytes())

    def _spell(self, ids: Sequence[int]) -> str:
        return self._engine.decode(list(ids))

    def _close_reference(self) -> None:
        pass  # a few megabytes

    @functools.cached_property
    def _identity(self) -> bool:
        probe = "  \ufb01\uff11e\u0301  \r\n\t\u3000\x00 "  # what nmt_nfkc or blank trimming would change
        return self._engine.normalize(probe).replace(BLANK, " ").removeprefix(" ") == probe

    def _keeps_text(self, text: str) -> bool:
        if self._identity:
            return True
        return self._engine.normalize(text).replace(BLANK, " ").removeprefix(" ") == text

    def _engine_ends(self, ids: np.ndarray, text: str) -> np.ndarray:
        mapping = self._engine.encode(text, return_type="offset_mapping")
        self._check_same(ids, mapping["ids"])
        ends = np.array([end for _, end in mapping["offsets"]], dtype=np.int64)
        return _byte_starts(text)[ends]


def _vocabulary_style(description: dict[str, Any]) -> str:
    """How tokens spell bytes: "bytes" (byte-level alphabet), "blanks" (SentencePiece marks) or "other"."""
    parts = json.dumps([description.get("pre_tokenizer"), description.get("decoder")], ensure_ascii=False)
    if any(f'"{word}"' in parts for word in ("WhitespaceSplit", "Whitespace", "BertPreTokenizer", "Removed")):
        return "other"  # blanks get lost between tokens
    if '"ByteLevel"' in parts:
        return "bytes"
    return "blanks" if '"Metaspace"' in parts or BLANK in parts else "other"


def _only_marks_blanks(normalizer: dict[str, Any] | None) -> bool:
    """Whether a normaliser does no more than Llama's: put a blank in front and write blanks as marks."""
    if normalizer is None:
        return True
    if normalizer["type"] == "Sequence":
        return all(_only_marks_blanks(part) for part in normalizer["normalizers"])
    if normalizer["type"] == "Replace":
        return normalizer["pattern"] == {"String": " "} and normalizer["content"] == BLANK
    return normalizer["type"] == "Prepend" and normalizer["prepend"] == BLANK


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _utf8(token: str) -> int:
    return len(token.encode("utf-8", "surrogatepass"))


def _byte_starts(text: str) -> np.ndarray:
    """Byte offset of each character of a text and of its end, int64 ``[characters + 1]``."""
    raw = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    return np.append(np.flatnonzero((raw & 0xC0) != 0x80), raw.size).astype(np.int64)


def _read_settings(folder: Path) -> dict[str, Any]:
    """What the folder says about special tokens: ``tokenizer_config.json`` over ``special_tokens_map.json``."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                settings |= json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{folder / name} is not valid JSON ({error}): download the model again") from None
    return settings
