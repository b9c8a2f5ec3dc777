"""From the logits of one place to the next token, row by row: bias, penalties, grammar, and the draw.

Each row has its own random stream, apart from torch's: an answer does not depend on its neighbours in a batch.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from src.generation.engine import Decoding, TokenLogprob
from src.generation.engines.token_bytes import TokenBytes

if TYPE_CHECKING:
    from src.generation.engines.grammar import Follower


class Chooser:
    """Chooses the tokens of one answer.

    Args:
        decoding: how.
        prompt: ids of the prompt, which a repetition penalty counts.
        grammar: that the answer must follow.
        banned: token ids that are never chosen.
    """

    def __init__(
        self,
        decoding: Decoding,
        prompt: Sequence[int],
        grammar: "Follower | None" = None,
        banned: frozenset[int] = frozenset(),
    ):
        self.decoding, self.grammar, self.banned = decoding, grammar, list(banned)
        self.answer: Counter[int] = Counter()
        self._seen = set(prompt)
        self._random = _stream(decoding.seed) if decoding.do_sample else None
        penalties = decoding.repetition_penalty != 1.0 or decoding.presence_penalty or decoding.frequency_penalty
        self._changes = bool(penalties or decoding.logit_bias or banned)
        self.takes_likeliest = not (self._changes or grammar or decoding.do_sample)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token for logits ``[vocabulary]`` of any dtype and device."""
        logits = logits.detach().float().cpu()
        if self._changes:
            logits = self._changed(logits.clone())
        if self.grammar is not None:
            logits = self.grammar.allow(logits)
        return int(logits.argmax()) if self._random is None else self._drawn(logits)

    def take(self, token: int) -> None:
        """Account for a token that has been chosen."""
        if self._changes:
            self.answer[token] += 1
            self._seen.add(token)
        if self.grammar is not None:
            self.grammar.take(token)

    def penalised(self, logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Logits after the repetition penalty on the tokens ``seen``."""
        old, penalty = logits[seen], self.decoding.repetition_penalty
        logits[seen] = torch.where(old < 0, old * penalty, old / penalty)
        return logits

    def _changed(self, logits: torch.Tensor) -> torch.Tensor:
        how = self.decoding
        for token, bias in how.logit_bias.items():
            logits[token] += bias
        logits[self.banned] = -torch.inf
        if how.repetition_penalty != 1.0:
            logits = self.penalised(logits, torch.tensor(sorted(self._seen)))
        if self.answer and (how.presence_penalty or how.frequency_penalty):
            counts = torch.tensor(list(self.answer.values()), dtype=logits.dtype)
            logits[torch.tensor(list(self.answer))] -= how.presence_penalty + how.frequency_penalty * counts
        return logits

    def _drawn(self, logits: torch.Tensor) -> int:
        probabilities = distribution(logits, self.decoding)
        return int(torch.multinomial(probabilities, 1, generator=self._random))


def distribution(logits: torch.Tensor, how: Decoding) -> torch.Tensor:
    """Probabilities ``[vocabulary]`` that a sampled token is drawn from; they need not add up to 1."""
    logits = logits / how.temperature
    if 0 < how.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(how.top_k).values[-1], -torch.inf)
    probabilities = logits.softmax(dim=0)
    if how.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        surplus = ordered.cumsum(dim=0) - ordered >= how.top_p
        probabilities[order[surplus]] = 0.0
    if how.min_p > 0:
        probabilities[probabilities < how.min_p * probabilities.max()] = 0.0
    return probabilities


def report(logits: torch.Tensor, token: int, alternatives: int, names: TokenBytes) -> TokenLogprob:
    """Log probability of a token and of the likeliest ones under logits ``[vocabulary]``."""
    logprobs = logits.detach().float().log_softmax(dim=0)
    best = logprobs.topk(alternatives) if alternatives else None
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
    entry: Any = lambda number, value, top=(): TokenLogprob(names.text(number), names[number], value, top)  # noqa: E731
    return entry(token, float(logprobs[token]), tuple(entry(number, value) for number, value in tops))  # type: ignore[no-any-return]


def _stream(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
