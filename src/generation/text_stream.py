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

    Attributes:
        text: all that is certain so far, stop texts too.
    """

    def __init__(self, tokenizer: "Tokenizer", stop: Sequence[str] = ()):
        self.tokenizer = tokenizer
        self._gate = StopGate(stop)
        self._ids: list[int] = []
        self._context = 0  # decoding restarts here, a token or more before what is new, so that spaces come out right
        self._read = 0  # ids before this one have been turned into text
        self._begun = False
        self.text = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come."""
        return self._gate.stopped

    @property
    def is_whole(self) -> bool:
        """Whether the tokens so far end with a whole character."""
        return self._read == len(self._ids)

    def push(self, token_id: int) -> str:
        """Add one token; returns the text that is certain now, often none."""
        self._ids.append(token_id)
        if not (new := self._new()):
            return ""
        self._context, self._read = self._read, len(self._ids)
        self.text += new
        return self._gate.push(new)

    def peek(self, token_id: int) -> str | None:
        """`text` as it were with one more token; None where that ends within a character."""
        new = self._new(token_id)
        return self.text + new if new else None

    def take_back(self) -> int:
        """Forget the tokens after the last whole character, of which no text was let out; their number."""
        unfinished = len(self._ids) - self._read
        del self._ids[self._read :]
        return unfinished

    def push_text(self, text: str, ids: Sequence[int] = ()) -> str:
        """Add text that somebody else has decoded from tokens, of which ``ids`` may be a part.

        Such text begins with a space where the first token has a word mark; this tokenizer may drop that one.
        """
        if not self._begun and text:
            self._begun = True
            if text.startswith(" ") and ids and not self._decode(list(ids[:1])).startswith(" "):
                text = text[1:]
        self.text += text
        return self._gate.push(text)

    def finish(self) -> str:
        """The rest, after the last token: what looked like a stop text; half a character is dropped."""
        before = self._decode(self._ids[self._context : self._read])
        rest = self._decode(self._ids[self._context :])[len(before) :]
        self._context = self._read = len(self._ids)
        self.text += rest.rstrip(BROKEN)
        return self._gate.push(rest.rstrip(BROKEN)) + self._gate.finish()

    def _new(self, *more: int) -> str:
        """Text of the tokens that were not read yet; none where it ends within a character."""
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode([*self._ids[self._context :], *more])
        return "" if now.endswith(BROKEN) else now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
