"""Texts full of phrases from a list, such as those of gambling, pornography and fraud that web spam repeats.

A list of phrases knows no context, and a text about a harm is not one that does it: so a text goes only with many of
them, or when they make up much of it. The list is a file, and its path a setting.
"""

import hashlib
from collections import Counter
from pathlib import Path

from src.corpus.cleaning.characters import SPACE, code_points, folded, kinds_of
from src.corpus.cleaning.phrases import SHORTEST, PhraseFinder
from src.corpus.steps import CleaningStep, Drop
from src.errors import UserError

SHOWN = 3  # phrases named in the reason


class HarmfulWords(CleaningStep):
    """Drops a text in which phrases of a list stand too often; the reason names them.

    Args:
        path: UTF-8 text file, one phrase a line, at least two characters each; lines that begin with # are comments.
        max_matches: most phrases a text may hold, counting each place; null for any number.
        max_share: largest share of them in the characters that are not blank; null for any share.

    Raises:
        UserError: no such file, or a line in it that is no phrase.
    """

    name = "harm"

    def __init__(self, path: str | Path, max_matches: int | None = None, max_share: float | None = None) -> None:
        super().__init__()
        self.max_matches = max_matches
        self.max_share = max_share
        phrases = read_phrases(Path(path))
        self._finder = PhraseFinder(phrases)
        self._fingerprint = hashlib.sha256("\n".join(phrases).encode("utf-8")).hexdigest()

    def depends_on(self) -> dict[str, str]:
        """The SHA-256 of the phrases in place of the path: what the list says counts, and not where it lies."""
        return {"path": self._fingerprint}

    def apply(self, text: str) -> str | Drop:
        codes = code_points(text)
        found = self._finder.find(folded(codes))
        if not found:
            return text
        phrases = [self._finder.phrases[index] for _, index in found]
        if self.max_matches is not None and len(phrases) > self.max_matches:
            return Drop("harmful_words", f"{_named(phrases)}: {len(phrases)} matches, at most {self.max_matches}")
        share = sum(map(len, phrases)) / int((kinds_of(codes) > SPACE).sum())
        if self.max_share is not None and share > self.max_share:
            return Drop("harmful_words", f"{_named(phrases)}: {share:.3f} of the text, at most {self.max_share:g}")
        self.count("matches", len(phrases))
        return text


def read_phrases(path: Path) -> list[str]:
    """The phrases of a list, without repetitions, in the order of the file.

    Raises:
        UserError: no such file, not UTF-8, or a phrase of one character.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"there is no list of harmful words {path}: set path=... to one, a phrase a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the list of harmful words {path} is not UTF-8: save it as UTF-8") from error
    phrases = {line.strip(): number for number, line in enumerate(lines, 1) if line.strip()}
    phrases = {phrase: number for phrase, number in phrases.items() if not phrase.startswith("#")}
    for phrase, number in phrases.items():
        if len(phrase) < SHORTEST:
            raise UserError(f"{path}:{number}: {phrase!r} is one character and would match everywhere: take it out")
    return list(phrases)


def _named(phrases: list[str]) -> str:
    most = Counter(phrases).most_common(SHOWN)
    return ", ".join(f"{phrase} ({number})" for phrase, number in most)
