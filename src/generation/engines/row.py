"""One request on its way through a batch: its tokens, its text, and what ends it.

Where a grammar leaves one continuation, its tokens are taken without asking the model. Where log probabilities are
asked for, the model has to read them first: they are owed until then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from src.errors import UserError
from src.generation.engine import Event, FinishReason, PromptTooLong, Request, TokenLogprob
from src.generation.engines.sampling import Chooser
from src.generation.prompts import EncodedPrompt
from src.generation.text_stream import TextStream

Report = Callable[[torch.Tensor, int], tuple[TokenLogprob, ...]]


@dataclass(eq=False)
class Row:
    """One request.

    Attributes:
        owed: tokens that must come next and are not in the answer yet.
        seen: tokens of prompt and answer (and of those owed) that the model has read.
        ends_at: tokens of the answer once it has been closed; None where it has not.
        finish_reason: why the answer ended; None before.
    """

    request: Request
    prompt: EncodedPrompt
    text: TextStream
    chooser: Chooser
    answer: list[int] = field(default_factory=list)
    owed: list[int] = field(default_factory=list)
    seen: int = 0
    ends_at: int | None = None
    finish_reason: FinishReason | None = None
    _held: tuple[TokenLogprob, ...] = ()  # of tokens within a character, which may be taken back

    def __post_init__(self) -> None:
        grammar = self.chooser.grammar
        if grammar is not None and grammar.may_close(self.prompt.limit):
            needed = len(grammar.closing(""))
            if needed > self.prompt.limit < self.request.decoding.max_new_tokens:
                raise PromptTooLong(
                    f"request '{self.request.id}' has a prompt of {len(self.prompt.ids)} tokens, and the model's "
                    f"context leaves {self.prompt.limit} for an answer of {needed} or more: shorten the prompt"
                )
            if needed > self.prompt.limit:
                raise UserError(
                    f"decoding.max_new_tokens is {self.prompt.limit}, and the shortest answer that the grammar allows "
                    f"has {needed} tokens: allow more"
                )

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt.ids) + len(self.answer)

    def unseen(self) -> list[int]:
        """Tokens that the model has yet to read: of the answer, those owed, the prompt's last if nothing came of it."""
        behind = self.seen - len(self.prompt.ids)
        return [*self.prompt.ids[self.seen :], *self.answer[max(0, behind) :], *self.owed]

    def advance(self, places: torch.Tensor, likeliest: int, report: Report) -> Iterator[Event]:
        """Account for what the model has read: take what was owed, choose the next token, take what that forces.

        Args:
            places: logits ``[tokens read, vocabulary]``; only the last where no log probabilities are asked for.
            likeliest: token at the last place.
            report: log probabilities of a token under logits ``[vocabulary]``.
        """
        before_first = self.seen - len(places) + 1  # tokens before the one that the first place is about
        for logits in places[max(0, self.length - before_first) :]:
            if self.owed:
                token = self.owed.pop(0)
            else:
                token = likeliest if self.chooser.takes_likeliest else self.chooser.choose(logits)
            closed = self._closes
            yield from self._go_on(token, () if self.request.decoding.logprobs is None else report(logits, token))
            if self.finish_reason is not None or self._closes != closed:
                return

    def take(self, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Event | None:
        """Account for one new token; the event it makes, if any text can be shown."""
        self.answer.append(token)
        delta = ""
        if self.ends_at is None:
            self.chooser.take(token)
        if token in self.prompt.end_ids:
            self.finish_reason, logprobs = "stop", ()
        else:
            delta = self.text.push(token)
            if self.text.stopped:
                self.finish_reason = "stop"
            elif len(self.answer) >= (self.prompt.limit if self.ends_at is None else self.ends_at):
                self.finish_reason = "stop" if self._is_complete() else "length"
        return self._event(delta, logprobs)

    def _event(self, delta: str, logprobs: tuple[TokenLogprob, ...]) -> Event | None:
        logprobs = self._held + logprobs
        self._held = ()
        if self.finish_reason is not None:
            delta += self.text.finish()
            if self.text.stopped:
                self.finish_reason = "stop"
        elif self._can_close and not self.text.is_whole:
            self._held, logprobs = logprobs, ()
        if not (delta or logprobs or self.finish_reason):
            return None
        counts = len(self.prompt.ids), len(self.answer)
        return Event(self.request.id, delta, self.finish_reason, *counts, logprobs)

    def _go_on(self, token: int, logprobs: tuple[TokenLogprob, ...]) -> Iterator[Event]:
        """Take a token and those that it forces, or close the answer while there is room for that."""
        coming = [token]
        while coming and self.finish_reason is None:
            token = coming.pop(0)
            if self._must_close(token):
                yield from self._close()
                return
            if (event := self.take(token, logprobs)) is not None:
                yield event
            logprobs = ()
            if not coming and not self.owed:
                coming = self._forced()

    def _forced(self) -> list[int]:
        """Tokens that must come next; what the model has to read before they are taken is put to what is owed."""
        grammar = self.chooser.grammar
        if grammar is None or self._closes or self.finish_reason is not None:
            return []
        forced = list(grammar.forced())
        if self.request.decoding.logprobs is None or set(forced) <= self.prompt.end_ids:
            return forced
        self.owed = forced
        return []

    @property
    def _can_close(self) -> bool:
        return self.chooser.grammar is not None and self.chooser.grammar.may_close(0)

    @property
    def _closes(self) -> bool:
        return self.ends_at is not None

    def _is_complete(self) -> bool:
        return self.chooser.grammar is not None and not self._closes and self.chooser.grammar.is_complete

    def _must_close(self, token: int) -> bool:
        """Whether the answer could not be completed within the limit after this token."""
        grammar, room = self.chooser.grammar, self.prompt.limit - len(self.answer) - 1
        if grammar is None or self._closes or token in self.prompt.end_ids or not grammar.may_close(room):
            return False
        text = self.text.peek(token)
        return room < 1 if text is None else len(grammar.closing(text)) > room

    def _close(self) -> Iterator[Event]:
        """Complete the answer as it was at its last whole character."""
        assert self.chooser.grammar is not None
        if unfinished := self.text.take_back():
            del self.answer[-unfinished:]
        closing = self.chooser.grammar.closing(self.text.text)
        self._held, self.ends_at, self.owed = (), len(self.answer) + len(closing), []
        if not closing:
            self.finish_reason = "length"
            events = [self._event("", ())]
        elif self.request.decoding.logprobs is None:
            events = [self.take(token) for token in closing]
        else:
            self.owed, events = closing, []
        yield from (event for event in events if event is not None)
