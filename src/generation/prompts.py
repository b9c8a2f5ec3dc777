"""From a request to the token ids that every engine is given: the same prompt on each, with no text taken for control.

Ids instead of text, because an engine that tokenizes a rendered prompt by itself would read a control token's spelling
inside somebody's message as the token.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.errors import UserError
from src.generation.engine import PromptTooLong, Request
from src.models.conversation import adds_bos, text_ids
from src.models.templates import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as ids, the limit of its answer, and what ends it.

    limit: tokens it may generate: what was asked for, or what the context leaves.
    end_ids: tokens that end the answer; with ``ignore_eos`` they are ``banned`` instead, and never chosen.
    """

    ids: list[int]
    limit: int
    stop: list[str]
    end_ids: frozenset[int]
    banned: frozenset[int] = frozenset()


class PromptEncoder:
    """Encodes requests for one model.

    Args:
        tokenizer: the model's.
        template: for requests with messages; None where only plain prompts come.
        context_length: tokens of prompt and answer together.
        end_ids: tokens that end an answer besides the tokenizer's end token, such as those of a generation config.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        template: Template | None,
        context_length: int,
        end_ids: frozenset[int] = frozenset(),
    ):
        self.tokenizer, self.template, self.context_length = tokenizer, template, context_length
        ends = {*end_ids, tokenizer.eos_token_id}
        self.plain_ends = frozenset(int(number) for number in ends if number is not None)
        self.chat_ends = self.plain_ends | frozenset(template.stop_token_ids(tokenizer) if template else ())

    def encode(self, request: Request) -> EncodedPrompt:
        """Ids of a request.

        Raises:
            UserError: messages without a template or that it refuses, an empty prompt.
            PromptTooLong: no room for an answer.
        """
        stop = list(request.decoding.stop)
        if request.messages is not None:
            if self.template is None:
                raise UserError("messages need a prompt template, and this model has none: set template=alpaca")
            ids = self.template.encode(request.messages, self.tokenizer, add_generation_prompt=True).input_ids
            if request.decoding.json_schema is None and request.decoding.grammar is None:
                stop += self.template.stop_strings  # within a form that ends by itself they are words of a text
        elif request.prompt_ids is not None:
            ids = list(request.prompt_ids)
            if bad := next((number for number in ids if not 0 <= number < len(self.tokenizer)), None):
                raise UserError(f"token id {bad} of the prompt is not in the vocabulary of {len(self.tokenizer)}")
        else:
            ids = [int(self.tokenizer.bos_token_id)] if adds_bos(self.tokenizer) else []
            ids += text_ids(request.prompt or "", self.tokenizer)
        if not ids:
            raise UserError(f"request '{request.id}' has an empty prompt: give it some text")
        room = self.context_length - len(ids)
        if room < 1:
            raise PromptTooLong(
                f"request '{request.id}' has a prompt of {len(ids)} tokens, and the model's context is "
                f"{self.context_length} tokens with at least one for the answer: shorten the prompt"
            )
        ends = self.chat_ends if request.messages is not None else self.plain_ends
        banned = ends if request.decoding.ignore_eos else frozenset[int]()
        return EncodedPrompt(ids, min(request.decoding.max_new_tokens, room), stop, ends - banned, banned)
