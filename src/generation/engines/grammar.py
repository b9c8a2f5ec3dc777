"""Answers that follow a JSON schema or a grammar: tokens that would leave it are ruled out.

The grammar engine is `llguidance <https://github.com/guidance-ai/llguidance>`_, here for models in this process. It is
inside llama.cpp too, which writes free text where it fails: what it is given is checked here first.

Where only one text can follow, as after ``{"per`` of a known key, the model is not asked: that text is taken in the
tokens that the tokenizer would make of it (llguidance's fast-forward tokens), which are those a model was trained on.
"""

import codecs
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from src.errors import UserError
from src.generation.engine import Decoding, Grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

# One space after a comma or colon and none elsewhere: small models get lost in white space where any is allowed.
SPACES: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Follower:
    """Where an answer stands in a grammar.

    Args:
        matcher: llguidance's, at the start or anywhere.
        vocabulary: the tokenizer as llguidance has it.
        end_ids: tokens that end the answer, allowed where it is whole.
        grammar: with its way to complete answers; None for a JSON schema.
    """

    def __init__(self, matcher: Any, vocabulary: Any, end_ids: frozenset[int], grammar: Grammar | None = None):
        self._matcher, self._vocabulary, self._end_ids, self._grammar = matcher, vocabulary, end_ids, grammar
        self._forced: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing can follow. Raises `UserError` where llguidance gave up."""
        if self._matcher.is_error():
            raise UserError(f"an answer can't be held to its grammar any longer: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())

    def forced(self) -> Sequence[int]:
        """The tokens that must come next, the end token too; empty where there is a choice."""
        if not self._forced:
            self._forced = self._matcher.compute_ff_tokens()
            if not self._forced and self.is_complete:
                self._forced = sorted(self._end_ids)[:1]
        return tuple(self._forced)

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, ``[vocabulary]`` of booleans, up to 31 longer than the tokenizer's vocabulary."""
        if forced := self.forced():
            found = np.zeros(self._vocabulary.vocab_size, dtype=bool)
            found[forced[0]] = True
            return found
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little").view(bool)

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[vocabulary]`` on the CPU, those of forbidden tokens at minus infinity.

        In NumPy: torch hands such short work to several threads, whose waiting for each other takes longer.
        """
        allowed, given = self.allowed(), logits.numpy()
        if len(allowed) < len(given):  # a model's vocabulary may be padded
            allowed = np.pad(allowed, (0, len(given) - len(allowed)))
        return torch.from_numpy(np.where(allowed[: len(given)], given, np.float32(-np.inf)))

    def take(self, token: int) -> None:
        """Go on by a token."""
        if self._forced:
            self._forced = self._forced[1:] if self._forced[0] == token else []
        self._matcher.consume_token(token)

    def after(self, token: int) -> "Follower | None":
        """The follower of the answer with one more token; None where that leaves the grammar. This one stays."""
        other = Follower(self._matcher.deep_copy(), self._vocabulary, self._end_ids, self._grammar)
        other._forced = list(self._forced)
        other.take(token)
        return None if other._matcher.is_error() else other

    def spelled(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """The whole characters that tokens spell, and whether nothing of another one follows them."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        text = decoder.decode(self._vocabulary.decode_bytes(list(tokens)))
        return text, not decoder.getstate()[0]

    def may_close(self, room: int) -> bool:
        """Whether completing an answer may take more than ``room`` tokens, so that it must be looked at."""
        if self._grammar is None or self._grammar.close is None:
            return False
        longest = self._grammar.longest_close
        return longest is None or room <= longest

    def closing(self, text: str) -> list[int]:
        """Tokens that complete an answer that is ``text`` so far."""
        assert self._grammar is not None and self._grammar.close is not None
        rest = self._grammar.close(text)
        tokens: list[int] = self._vocabulary.tokenize_str(rest)
        if self._vocabulary.decode_bytes(tokens) != rest.encode():  # a tokenizer that changes what it reads
            tokens = self._vocabulary.greedy_tokenize(rest)
        return tokens


def follow(decoding: Decoding, tokenizer: "Tokenizer", end_ids: frozenset[int]) -> Follower | None:
    """The follower at the start of an answer; None where it may be anything.

    Args:
        tokenizer: a fast one.
        end_ids: tokens that end the answer.

    Raises:
        UserError: the schema is none, or has what llguidance does not know; the grammar is none.
    """
    text = grammar_text(decoding, checked=False)
    if text is None:
        return None
    vocabulary = _vocabulary(tokenizer, end_ids)
    return Follower(_compiled(vocabulary, text).deep_copy(), vocabulary, end_ids, decoding.grammar)


def grammar_text(decoding: Decoding, checked: bool = True) -> str | None:
    """The grammar or JSON schema of a decoding in llguidance's language; None where an answer may be anything.

    Raises:
        UserError: with ``checked`` for what llguidance does not know, as ``uniqueItems`` in a schema.
    """
    if decoding.grammar is not None:
        text = decoding.grammar.lark
    elif decoding.json_schema is not None:
        text = _schema_text(decoding.json_schema)
    else:
        return None
    if checked:
        from llguidance import LLMatcher

        if problem := LLMatcher.validate_grammar(text):
            raise _not_followed(text, problem)
    return text


def _schema_text(schema: Mapping[str, Any]) -> str:
    return "%llguidance {}\nstart: %json " + json.dumps({**schema, "x-guidance": SPACES})


@functools.lru_cache(maxsize=32)
def _compiled(vocabulary: Any, text: str) -> Any:
    """A matcher at the start, to be copied. Compiling takes milliseconds, and prompts of a kind share a grammar."""
    from llguidance import LLMatcher

    matcher = LLMatcher(vocabulary, text)
    if matcher.is_error():
        raise _not_followed(text, matcher.get_error())
    return matcher


def _not_followed(text: str, problem: str) -> UserError:
    first, *_ = problem.splitlines()
    if "start: %json " in text:
        return UserError(f"the JSON schema can't be followed: {first.rpartition('JSON schema: ')[2]}")
    return UserError(f"the grammar can't be followed: {first}")


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: "Tokenizer", end_ids: frozenset[int]) -> Any:
    """The tokenizer as llguidance wants it; takes about a second."""
    from llguidance.hf import from_tokenizer

    if not end_ids:
        raise UserError("a grammar or JSON schema needs an end token, and the tokenizer has none: set its eos_token")
    try:
        return from_tokenizer(tokenizer, eos_token=sorted(end_ids))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError("a grammar or JSON schema needs a fast tokenizer (tokenizer.json): use another engine") from (
            error
        )
