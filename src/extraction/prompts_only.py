"""A model's tokenizer and template without its weights: for looking at prompts and planning, not for answers."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

from src.errors import UserError
from src.generation.engine import Capability, Event, Request

if TYPE_CHECKING:
    from src.generation.prompts import PromptEncoder
    from src.models.spec import ModelSpec


class PromptsOnly:
    """An `Engine` that encodes prompts and refuses to generate."""

    name = "prompts only"
    capabilities = frozenset(Capability)
    max_parallel = 1
    adapters: Sequence[str] = ()

    def __init__(self, prompts: "PromptEncoder"):
        self.prompts = prompts
        self.context_length = prompts.context_length

    @classmethod
    def of(
        cls, spec: "ModelSpec", template: str | None = "auto", context_length: int | None = None
    ) -> "tuple[PromptsOnly, bool]":
        """For a model, and whether its prompts go through a template; a model of the hub gives its small files only."""
        from src.generation.prompts import PromptEncoder
        from src.generation.setup import choose_template
        from src.models.load import load_tokenizer

        tokenizer = load_tokenizer(spec)
        chosen, talks = choose_template(spec, tokenizer, template, "auto")
        length = context_length or spec.context_length or 2**31
        return cls(PromptEncoder(tokenizer, chosen if talks else None, length)), talks

    def check(self, request: Request) -> int:
        """See `Engine.check`."""
        return len(self.prompts.encode(request).ids)

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Raises `UserError`."""
        raise UserError("there is a tokenizer only, and no model to answer: open an engine")

    def stream(self, request: Request) -> AsyncIterator[Event]:
        """Raises `UserError`."""
        raise UserError("there is a tokenizer only, and no model to answer: open an engine")

    def is_ready(self) -> bool:
        """Never."""
        return False

    async def release(self) -> None:
        """See `Engine.release`: nothing here belongs to an event loop."""

    def close(self) -> None:
        """See `Engine.close`: nothing runs."""
