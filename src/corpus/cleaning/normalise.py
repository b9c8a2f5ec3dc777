"""One way of writing the same text: Unicode normal form, line ends, no control characters, no wrongly decoded text.

Applied to its own result it changes nothing. ASCII without control characters comes back as the same object.

Mojibake is what is left of a text decoded with the wrong encoding: U+FFFD where bytes were lost; UTF-8 read as
Latin-1 or Windows-1252 ("Ã©" for "é", "ä¸­" for "中"); U+FFFD read once more ("ï¿½", in GBK "锟斤拷"); UTF-8 read as
GBK ("锛", "銆" where punctuation was); memory that Windows fills with 0xCC or 0xCD ("烫烫烫", "屯屯屯").
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

from src.corpus.steps import CleaningStep, Drop
from src.errors import UserError

Form = Literal["NFC", "NFKC", "none"]

CONTROLS = "\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
INVISIBLE = "\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
_LINE_END = re.compile(r"\r\n?")
_HIGH = "\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201a\u201c-\u201e"
_HIGH += "\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122"  # bytes 0x80 to 0xBF as Windows-1252 reads them
_SUSPECT = re.compile("[\ufffdÂÃâä-ïÐÑ锟斤拷烫屯锛銆鈥鐨]")
_MOJIBAKE = re.compile(
    f"\ufffd+|ï¿½|ï»¿|[ÂÃ][{_HIGH}]|â[€„†][{_HIGH}]|[ä-ï][{_HIGH}]{{2}}|[ÐÑ][{_HIGH}](?:[ÐÑ][{_HIGH}])+"
    "|锟斤拷|锟斤|斤拷|烫烫烫+|屯屯屯+|锛[\u4e00-\u9fff]|銆[\u4e00-\u9fff]|鈥[\u4e00-\u9fff\ue000-\uf8ff]|鐨[勬刄]"
)


class Normalise(CleaningStep):
    """Writes a text in one way, and drops it where it was decoded wrongly.

    Counts ``control_characters``, ``invisible_characters``, ``line_ends`` and ``mojibake`` (characters of texts that
    are kept).

    Args:
        form: Unicode normal form. NFKC also replaces full-width letters, ligatures and circled digits by plain ones.
        line_ends: whether CRLF and CR become LF.
        form_feeds: whether a form feed is kept among the control characters, all of which go but line end and tab.
        invisible: whether byte-order marks, zero-width blanks, soft hyphens and direction marks stay. Joiners
            (U+200C, U+200D) always stay: emoji, Persian and Indic scripts are written with them.
        max_mojibake: largest share of characters in traces of wrong decoding; null keeps every text.
        simplified: whether traditional characters become simplified ones, with OpenCC's ``t2s``.

    Raises:
        UserError: an unknown form, or `simplified` without the package.
    """

    name = "normalise"

    def __init__(
        self,
        form: Form = "NFC",
        line_ends: bool = True,
        form_feeds: bool = False,
        invisible: bool = False,
        max_mojibake: float | None = 0.005,
        simplified: bool = False,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise UserError(f"Normalise knows the forms {', '.join(get_args(Form))}, not {form!r}")
        self.form = form
        self.line_ends = line_ends
        self.max_mojibake = max_mojibake
        self.simplified = simplified
        controls = CONTROLS if form_feeds else CONTROLS + "\x0c"
        self._controls = re.compile(f"[{controls}]+")
        self._unwanted = re.compile(f"[{controls}]" if invisible else f"[{controls}{INVISIBLE}]")
        plain = map(chr, range(128))
        self._ascii = "".join(c for c in plain if self._unwanted.match(c) or (line_ends and c == "\r")).encode()
        self._invisible = None if invisible else re.compile(f"[{INVISIBLE}]+")
        self._convert: Callable[[str], str] | None = None
        if simplified:
            _open_converter()  # a missing package is said before the run, not in its workers

    def apply(self, text: str) -> str | Drop:
        if text.isascii() and len(text.encode("ascii").translate(None, self._ascii)) == len(text):
            return text
        if self._unwanted.search(text):
            text = self._without(text, self._controls, "control_characters")
            if self._invisible is not None:
                text = self._without(text, self._invisible, "invisible_characters")
        if self.line_ends and "\r" in text:
            text, number = _LINE_END.subn("\n", text)
            self.count("line_ends", number)
        if text.isascii():
            return text
        if self.form != "none" and not unicodedata.is_normalized(self.form, text):
            text = unicodedata.normalize(self.form, text)
        if self.simplified:
            text = self._simplify(text)
        return self._checked(text)

    def _without(self, text: str, pattern: re.Pattern[str], counter: str) -> str:
        shorter = pattern.sub("", text)
        if len(shorter) == len(text):
            return text
        self.count(counter, len(text) - len(shorter))
        return shorter

    def _simplify(self, text: str) -> str:
        if self._convert is None:
            self._convert = _open_converter()
        return self._convert(text)

    def _checked(self, text: str) -> str | Drop:
        if not _SUSPECT.search(text):
            return text
        size = sum(match.end() - match.start() for match in _MOJIBAKE.finditer(text))
        if not size:
            return text
        if self.max_mojibake is not None and size > self.max_mojibake * len(text):
            return Drop("mojibake", f"{size / len(text):.4f} of the characters, at most {self.max_mojibake:g}")
        self.count("mojibake", size)
        return text

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_convert": None}  # OpenCC's converter cannot be sent to a worker


def _open_converter() -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise UserError("simplified=true needs the package opencc: pip install opencc") from error
    return OpenCC("t2s").convert
