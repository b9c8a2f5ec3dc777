"""Names that mean the same: what is left of a name without case, width, spaces, book-title marks and legal form."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from src.errors import UserError

MARKS = str.maketrans("", "", "《》〈〉「」『』“”\"‘’'·・•")
CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
SPACES_BESIDE_CJK = re.compile(rf"(?<=[{CJK}])\s+|\s+(?=[{CJK}])")
ONE_CJK = re.compile(rf"([{CJK}])")
WORD = re.compile(r"\w+")
LEGAL_FORM = re.compile(
    r"(?:(?:股份)?有限(?:责任)?公司|股份公司|集团公司)$"
    r"|[\s,.]+(?:inc|incorporated|corp|corporation|co|company|ltd|limited|llc|llp|plc|gmbh|ag|kg|s\.?a|n\.?v|b\.?v|"
    r"s\.?p\.?a|s\.?r\.?l|oy|ab|a/s|pty)\.?$"
)


def name_key(name: str) -> str:
    """A name without what writers vary: NFKC, case, spaces beside Chinese characters, quotes and book-title marks.

    A name that is nothing but such marks is its own key.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    bare = " ".join(SPACES_BESIDE_CJK.sub("", " ".join(plain.translate(MARKS).split())).split())
    return bare or plain


def words(name: str) -> str:
    """A name as words for a search index: each Chinese character is one, so that a phrase of them finds any part."""
    return " ".join(WORD.findall(ONE_CJK.sub(r" \1 ", name_key(name))))


@dataclass(frozen=True)
class NameRules:
    """Which names count as one.

    legal_forms: leave out a company's legal form at the end of its name (Inc., GmbH, 有限公司).
    simplified: read traditional Chinese as simplified; needs the package opencc. None: where it is installed.
    """

    legal_forms: bool = False
    simplified: bool | None = None
    _simplify: Callable[[str], str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        converter = _converter() if self.simplified is not False else None
        if self.simplified and converter is None:
            raise UserError("simplified=true needs the package opencc: pip install 'knowlm-lightning[chinese]'")
        object.__setattr__(self, "simplified", converter is not None)
        object.__setattr__(self, "_simplify", converter or (lambda name: name))

    def key(self, name: str) -> str:
        """Names with one key are names of one entity, where their types allow it."""
        found = name_key(self._simplify(name))
        while self.legal_forms and (shorter := LEGAL_FORM.sub("", found).rstrip(" ,.")) not in ("", found):
            found = shorter
        return found


@cache
def _converter() -> Callable[[str], str] | None:
    try:
        from opencc import OpenCC
    except ImportError:
        return None
    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert
