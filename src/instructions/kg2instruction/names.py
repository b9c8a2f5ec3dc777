"""How names are compared: titles as MediaWiki spells them, Chinese in simplified characters.

Names keep their case: "May" is a month and "may" is none. MediaWiki writes the first letter of a title big, whatever
the word, so `title_key` does too. Chinese is compared after OpenCC's t2s, while the text stays as it was written:
`Simplified` keeps where each character came from.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from src.errors import UserError
from src.instructions.kg2instruction.vocabulary import Language

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"))


def name_key(name: str, language: Language) -> str:
    """A name as it is looked up: NFC, single blanks, no invisible marks; Chinese in simplified characters."""
    key = " ".join(unicodedata.normalize("NFC", name).translate(_INVISIBLE).replace("_", " ").split())
    return simplify(key) if language == "zh" else key


def title_key(title: str, language: Language) -> str:
    """The key of a page title: as `name_key`, the first letter big."""
    key = name_key(title, language)
    return key[:1].upper() + key[1:]


def chinese(character: str) -> bool:
    """Whether a character is a Chinese one."""
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"


@dataclass(frozen=True)
class Simplified:
    """A text in simplified characters. ``places[i]``: where its character i came from; None: the same place."""

    text: str
    places: tuple[int, ...] | None = None

    def back(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in the original of a stretch of this text."""
        if self.places is None or start == end:
            return start, end
        return self.places[start], self.places[end - 1] + 1


def simplified(text: str, language: Language, convert: Callable[[str], str] | None = None) -> Simplified:
    """The text in which names are looked for; English stays as it is.

    Args:
        convert: from traditional to simplified, OpenCC's t2s by default. Where it changes the length of the text it is
            applied to one character after another, so that every place stays known.
    """
    if language != "zh":
        return Simplified(text)
    convert = convert or simplify
    whole = convert(text)
    if len(whole) == len(text):
        return Simplified(whole)
    pieces = [convert(character) for character in text]
    places = tuple(place for place, piece in enumerate(pieces) for _ in piece)
    return Simplified("".join(pieces), places)


def simplify(text: str) -> str:
    """Traditional to simplified characters. Raises `UserError` where OpenCC is not installed."""
    return text if text.isascii() else _converter()(text)


@lru_cache(maxsize=1)
def _converter() -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ImportError:
        raise UserError("language=zh needs the package opencc: pip install -e '.[chinese]'") from None
    return OpenCC("t2s").convert
