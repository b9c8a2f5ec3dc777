"""Texts to token ids and byte offsets: the interface of every tokenizer, and the choice of the engine behind it.

Each kind of vocabulary has a reference library that defines its ids (`src.models.tokenizer`). Where `fastokens` makes
the same ids of every check text, which is tried when a tokenizer is opened, it does the encoding, several times
faster; else the reference does. All engines encode whole texts, add no special tokens, and read a special token's
spelling inside a text (``</s>`` in a manual page) as the plain characters it is.

Where each token ends in the text is the running sum of the bytes its tokens stand for, which is ten times cheaper than
asking the engine for offsets. The sum is checked against the text's UTF-8 length; where a normaliser changes the text
or a piece is unknown, the engine's own offsets are used instead.
"""

import functools
import hashlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.errors import UserError
from src.models.fast_tokenizer import (
    CHECK_TEXTS,
    VOCABULARY_SAMPLE,
    FastEngine,
    NotExactError,
    give_memory_back,
    same_ids,
)

Engine = Literal["auto", "reference", "fastokens"]

log = logging.getLogger(__name__)


class TextEncoder(ABC):
    """Encodes texts with one vocabulary.

    Attributes:
        name: what people call the tokenizer, for messages and manifests.
        tokens: the spelling of every id, ``[vocab_size]``.
        byte_lengths: UTF-8 bytes of text each id stands for, int32 ``[vocab_size]``; 0 for special tokens.
        bos_id, eos_id: ids of the tokens that begin and end a text, None where the vocabulary names none.
        adds_bos: whether the tokenizer puts the BOS token before a text when left to its own.
        engine: which library encodes, ``fastokens`` or the reference: ``sentencepiece`` or ``tokenizers``.
        engine_reason: why it is that one, in a few words.
    """

    reference = ""

    def __init__(self, file: Path, name: str, tokens: list[str], byte_lengths: np.ndarray) -> None:
        self.file = file
        self.name = name
        self.tokens = tokens
        self.byte_lengths = byte_lengths
        self.bos_id: int | None = None
        self.eos_id: int | None = None
        self.adds_bos = False
        self.engine = self.reference
        self.engine_reason = "asked for"
        self._fast: FastEngine | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return len(self.tokens)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the spelling of every id in order: equal for equal vocabularies, wherever they lie."""
        digest = hashlib.sha256()
        for token in self.tokens:
            spelling = token.encode("utf-8", "surrogatepass")
            digest.update(len(spelling).to_bytes(4, "little") + spelling)
        return digest.hexdigest()

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def token_id(self, token: str) -> int:
        """Id of a token by its spelling in the vocabulary, such as ``<|endoftext|>``."""
        if token not in self._ids:
            raise UserError(
                f"tokenizer '{self.name}' ({self.vocab_size} tokens) has no token '{token}': "
                "take the spelling from its tokenizer.json or tokenizer_config.json"
            )
        return self._ids[token]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of whole texts one after another, without special tokens: nothing becomes a Python list.

        Returns:
            The ids, int32 ``[total]``, and where each text starts in them, int64 ``[texts + 1]``; maybe read-only.
        """
        if self._fast is not None:
            return self._fast.encode_flat(texts)
        parts = self._encode_reference(texts)
        starts = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32), starts

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each whole text, int32, without special tokens; maybe read-only."""
        if self._fast is None:
            return self._encode_reference(texts)
        ids, starts = self._fast.encode_flat(texts)
        return [ids[begin:end] for begin, end in itertools.pairwise(starts)]

    def choose_engine(self, engine: Engine) -> None:
        """Take the fast engine where it is wanted and exact; say which one it is."""
        if engine != "reference":
            try:
                self._fast = self._checked_fast_engine()
                self.engine, self.engine_reason = "fastokens", f"same ids as {self.reference} on the check texts"
            except NotExactError as error:
                if engine == "fastokens":
                    raise UserError(
                        f"tokenizer '{self.name}' ({self.file}) cannot be encoded with fastokens: {error}: "
                        "set engine=auto or engine=reference"
                    ) from None
                self.engine_reason = str(error)
        give_memory_back()
        level = logging.DEBUG if engine == "reference" else logging.INFO  # who asks for it knows
        log.log(level, "tokenizer '%s' encodes with %s: %s", self.name, self.engine, self.engine_reason)

    def _checked_fast_engine(self) -> FastEngine:
        step = max(1, self.vocab_size // VOCABULARY_SAMPLE)
        texts = [*CHECK_TEXTS, self._spell(range(0, self.vocab_size, step))]
        description = self._describe()
        expected = self._encode_reference(texts)
        self._close_reference()
        engine = FastEngine(description)
        if not same_ids(engine, texts, expected):
            raise NotExactError(f"fastokens and {self.reference} differ on the check texts")
        return engine

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.file, self.name, "auto" if self._fast else "reference")

    @abstractmethod
    def _encode_reference(self, texts: Sequence[str]) -> list[np.ndarray]:
        """What `encode_batch` gives, by the library that defines the ids."""

    @abstractmethod
    def _describe(self) -> str:
        """The description that the fast engine is built from."""

    @abstractmethod
    def _spell(self, ids: Sequence[int]) -> str:
        """A text that these ids decode to."""

    @abstractmethod
    def _close_reference(self) -> None:
        """Free what the reference engine holds, where that is much; it is opened again when needed."""

    def token_ends(self, ids: np.ndarray, text: str, text_bytes: int | None = None) -> np.ndarray:
        """Byte offset in the UTF-8 text at which each token ends.

        Args:
            ids: what `encode_batch` gave for this text, ``[n]``.
            text_bytes: UTF-8 length of the text where the caller has it already.

        Returns:
            int64 ``[n]``, never falling. A token in the middle of a character ends in the middle of it; where offsets
            come from the engine, which counts characters, the tokens of one character may share an end.
        """
        size = len(text.encode("utf-8")) if text_bytes is None else text_bytes
        if len(ids) == 0:
            return np.zeros(0, dtype=np.int64)
        lengths = self.byte_lengths.take(ids)
        ends = np.cumsum(lengths, dtype=np.int64)
        prefix = int(ends[-1]) - size  # 1 where a blank was put before the text
        if prefix in (0, 1) and lengths.all() and self._keeps_text(text):
            ends -= prefix
            return ends
        return np.maximum.accumulate(self._engine_ends(ids, text))

    @abstractmethod
    def _keeps_text(self, text: str) -> bool:
        """Whether the tokens of this text, put together, spell the text."""

    @abstractmethod
    def _engine_ends(self, ids: np.ndarray, text: str) -> np.ndarray:
        """End of each token in bytes as the engine reports it, int64 ``[n]``."""

    def _check_same(self, ids: np.ndarray, again: Sequence[int]) -> None:
        if not np.array_equal(ids, np.asarray(again, dtype=np.int64)):
            raise ValueError(f"these {len(ids)} ids are not what tokenizer '{self.name}' makes of this text")


def _reopen(kind: Callable[[Path, str], TextEncoder], file: Path, name: str, engine: Engine) -> TextEncoder:
    """An encoder in another process: its files are read there."""
    encoder = kind(file, name)
    encoder.choose_engine(engine)
    return encoder
