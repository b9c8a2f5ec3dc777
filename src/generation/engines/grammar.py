"""Answers that follow a JSON schema: tokens that would leave the schema are ruled out.

The grammar engine is `llguidance <https://github.com/guidance-ai/llguidance>`_, here for models in this process. It is
inside llama.cpp too, which writes free text where it fails: schemas are checked here first.
"""

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from src.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

# One space after a comma or colon and none elsewhere: small models get lost in white space where any is allowed.
SPACES: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class JsonGrammar:
    """Where an answer stands in a JSON schema.

    Args:
        schema: ``{}`` is any JSON value.
        tokenizer: a fast one.
        end_ids: tokens that end the answer, allowed where the JSON is complete.

    Raises:
        UserError: the schema is none, or has what llguidance does not know.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: "Tokenizer", end_ids: frozenset[int]):
        from llguidance import LLMatcher

        self._matcher = LLMatcher(_vocabulary(tokenizer, end_ids), checked_grammar(schema))
        if self._matcher.is_error():
            raise _not_followed(self._matcher.get_error())

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """See `src.generation.engines.sampling.Grammar`."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = torch.zeros(len(logits), dtype=torch.bool)
        known = min(len(logits), len(bits))
        allowed[:known] = torch.from_numpy(bits[:known]).bool()
        return logits.masked_fill(~allowed, -torch.inf)

    def take(self, token: int) -> None:
        """See `src.generation.engines.sampling.Grammar`."""
        self._matcher.consume_token(token)


def checked_grammar(schema: Mapping[str, Any]) -> str:
    """The schema in llguidance's own language. Raises `UserError` for what that does not know, as ``uniqueItems``."""
    from llguidance import LLMatcher

    grammar = "%llguidance {}\nstart: %json " + json.dumps({**schema, "x-guidance": SPACES})
    if problem := LLMatcher.validate_grammar(grammar):
        raise _not_followed(problem)
    return grammar


def _not_followed(problem: str) -> UserError:
    first, *_ = problem.splitlines()
    return UserError(f"the JSON schema can't be followed: {first.rpartition('JSON schema: ')[2]}")


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: "Tokenizer", end_ids: frozenset[int]) -> Any:
    """The tokenizer as llguidance wants it; takes about a second."""
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer, eos_token=sorted(end_ids))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError("a JSON schema needs a fast tokenizer (tokenizer.json): use another engine") from error
