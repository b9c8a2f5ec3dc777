"""From token ids to text that people can read, out of the spellings of a vocabulary alone."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np


class Vocabulary(Protocol):
    """What is needed of a tokenizer: a `TextEncoder` is one."""

    name: str
    tokens: list[str]
    byte_lengths: np.ndarray

    @property
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2): itself where it can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _byte_alphabet()
BLANK = "\u2581"  # how SentencePiece spells a blank


def text_of(ids: Iterable[int], vocabulary: Vocabulary) -> str:
    """The text that ids stand for; special tokens are spelled out, an id that is no token is written ``<?70000>``.

    Bytes that make no whole character, as at the ends of a segment, become ``\\ufffd``.
    """
    return b"".join(_bytes_of(index, vocabulary) for index in ids).decode("utf-8", "replace")


def _bytes_of(index: int, vocabulary: Vocabulary) -> bytes:
    if not 0 <= index < vocabulary.vocab_size:
        return f"<?{index}>".encode()
    token, size = vocabulary.tokens[index], int(vocabulary.byte_lengths[index])
    if size == len(token) and all(character in BYTES for character in token):
        return bytes(BYTES[character] for character in token)
    if size == 1 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:-1], 16)])
    return token.replace(BLANK, " ").encode("utf-8", "surrogatepass")
