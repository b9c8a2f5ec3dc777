"""From the tokens of one answer, as they come, to text that may be shown at once.

Nothing is let out that could still change: half of a character (Chinese characters and emoji span several tokens), or
the beginning of a stop text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

BROKEN = "\ufffd"  # what decoders put for bytes that are not a whole character


class StopGate:
    """Lets text through up to the first stop text, and holds back what may be the beginning of one."""

    def __init__(self, stop: Sequence[str] = ()):
        self.stop = [text for text in stop if text]
        self.stopped = False
        self._held = ""

    def push(self, text: str) -> str:
        """Add text; returns what may be shown now."""
        if self.stopped:
            return ""
        held = self._held + text
        ends = [position for position in (held.find(stop) for stop in self.stop) if position >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return held[: min(ends)]
        keep = max((overlap(held, stop) for stop in self.stop), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """Takes token ids, gives text deltas; their concatenation is the decoded answer up to the first stop text.

    An answer that was cut within a character ends before it.
    """

    def __init__(self, tokenizer: "Tokenizer", stop: Sequence[str] = ()):
        self.tokenizer = tokenizer
        self._gate = StopGate(stop)
        self._ids: list[int] = []
        self._context = 0  # decoding restarts here, a token or more before what is new, so that spaces come out right
        self._read = 0  # ids before this one have been turned into text
        self._begun = False

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come."""
        return self._gate.stopped

    def push(self, token_id: int) -> str:
        """Add one token; returns the text that is certain now, often none."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context :])
        if now.endswith(BROKEN) or len(now) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return self._gate.push(now[len(before) :])

    def push_text(self, text: str, ids: Sequence[int] = ()) -> str:
        """Add text that somebody else has decoded from tokens, of which ``ids`` may be a part.

        Such text begins with a space where the first token has a word mark; this tokenizer may drop that one.
        """
        if not self._begun and text:
            self._begun = True
            if text.startswith(" ") and ids and not self._decode(list(ids[:1])).startswith(" "):
                text = text[1:]
        return self._gate.push(text)

    def finish(self) -> str:
        """The rest, after the last token: what looked like a stop text; half a character is dropped."""
        before = self._decode(self._ids[self._context : self._read])
        rest = self._decode(self._ids[self._context :])[len(before) :]
        self._context = self._read = len(self._ids)
        return self._gate.push(rest.rstrip(BROKEN)) + self._gate.finish()

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
