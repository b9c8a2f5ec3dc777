"""The bytes that each token of a vocabulary stands for: what log probabilities are reported with."""

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_WORD_MARK = "\u2581"  # SentencePiece's, which stands for a space


class TokenBytes:
    """Bytes of tokens, for byte-level BPE (GPT-2, SmolLM, Qwen) and SentencePiece-like vocabularies (Llama).

    A token may hold part of a character. Control tokens have the bytes of their spelling.
    """

    def __init__(self, tokenizer: "Tokenizer"):
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids) | {
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = backend is not None and "ByteLevel" in str(backend.decoder)
        self._of = functools.lru_cache(maxsize=2**17)(self._bytes)

    def __getitem__(self, token_id: int) -> bytes:
        return self._of(token_id)

    def text(self, token_id: int) -> str:
        """The token as text; half characters come out as U+FFFD."""
        return self._of(token_id).decode("utf-8", "replace")

    def _bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if token_id in self._special:
            return str(token).encode()
        if self._byte_level:
            table = _alphabet()
            if all(character in table for character in token):
                return bytes(table[character] for character in token)
            return str(token).encode()
        if match := _BYTE.fullmatch(str(token)):
            return bytes([int(match[1], 16)])
        return str(token).replace(_WORD_MARK, " ").encode()


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's stand-in characters: printable ones for themselves, the others from U+0100 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(kept)]
    table = {chr(byte): byte for byte in kept}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
