"""Answers that follow a JSON schema, for models in this process: tokens that would leave the schema are ruled out.

The grammar engine is `llguidance <https://github.com/guidance-ai/llguidance>`_, which llama.cpp and vLLM use too.
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

        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(dict(schema)), defaults=SPACES)
            self._matcher = LLMatcher(_vocabulary(tokenizer, end_ids), grammar)
            problem = self._matcher.get_error() if self._matcher.is_error() else ""
        except ValueError as error:
            problem = str(error)
        if problem:
            raise UserError(f"the JSON schema can't be followed: {' '.join(problem.split())[:300]}")

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


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: "Tokenizer", end_ids: frozenset[int]) -> Any:
    """The tokenizer as llguidance wants it; takes about a second."""
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer, eos_token=sorted(end_ids))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError("a JSON schema needs a fast tokenizer (tokenizer.json): use another engine") from error
