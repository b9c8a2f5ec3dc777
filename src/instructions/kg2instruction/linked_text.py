"""A text with marked stretches, changed without losing where they are."""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mark:
    """A stretch of a text in characters: a link (``target``, the title it leads to) or bold type (no target)."""

    start: int
    end: int
    target: str | None = None


@dataclass(frozen=True)
class LinkedText:
    """A text and its marks in order."""

    text: str
    marks: tuple[Mark, ...] = ()

    def cut(self, start: int, end: int) -> "LinkedText":
        """A part of the text with the marks that lie wholly in it."""
        inside = (m for m in self.marks if start <= m.start and m.end <= end)
        return LinkedText(
            self.text[start:end], tuple(replace(m, start=m.start - start, end=m.end - start) for m in inside)
        )

    def sub(self, pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str]) -> "LinkedText":
        """As `re.sub`; a mark keeps what is left of it and goes when nothing is. ``replacement`` is taken literally."""
        pieces: list[str] = []
        changes: list[tuple[int, int, int, int]] = []  # old start and end, new start and end
        done = size = 0
        for match in pattern.finditer(self.text):
            new = replacement(match) if callable(replacement) else replacement
            kept = self.text[done : match.start()]
            size += len(kept)
            changes.append((match.start(), match.end(), size, size + len(new)))
            size += len(new)
            pieces += [kept, new]
            done = match.end()
        if not changes:
            return self
        pieces.append(self.text[done:])
        moved = (replace(m, start=_move(m.start, changes, 2), end=_move(m.end, changes, 3)) for m in self.marks)
        return LinkedText("".join(pieces), tuple(m for m in moved if m.start < m.end))


def _move(offset: int, changes: list[tuple[int, int, int, int]], side: int) -> int:
    """An offset after the changes; one inside of a change goes to the new start (side 2) or end (side 3) of it."""
    place = bisect_left(changes, offset, key=lambda change: change[0]) - 1  # the last change that begins before it
    if place < 0:
        return offset
    change = changes[place]
    return change[side] if offset < change[1] else offset + change[3] - change[1]
