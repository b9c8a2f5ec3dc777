"""What the quality rules measure, each a function from a batch of texts to one number a text, float64 ``[documents]``.

From Gopher (Rae et al. 2021, arXiv:2112.11446), C4 (Raffel et al. 2019, arXiv:1910.10683) and FineWeb (Penedo et al.
2024, arXiv:2406.17557); `RULES` says which. Where there is nothing to measure, such as the mean length of no words, the
answer is NaN, which passes every rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from src.corpus.cleaning.batch import TextBatch, word_hashes
from src.corpus.cleaning.characters import CLOSERS, DIGIT, HAN, LETTER, PUNCTUATION, TERMINAL, code_points
from src.corpus.cleaning.phrases import PhraseFinder
from src.corpus.cleaning.repetition import duplicate_shares

Measure = Callable[[TextBatch], np.ndarray]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher's
BULLETS = "•-*·●○■▪◆–"
SHORT_LINE = 30  # characters, FineWeb's
NOTICES = {  # what C4 takes out lines for, and what Chinese pages have in their place; in small letters
    "en": (
        *("javascript", "terms of use", "privacy policy", "cookie policy"),
        *("use cookies", "uses cookies", "use of cookies"),
    ),
    "zh": (
        *("上一页", "下一页", "上一篇", "下一篇", "返回顶部", "返回首页", "点击查看更多", "加入收藏", "设为首页"),
        *("版权所有", "友情链接", "扫一扫", "icp备"),
    ),
}


@dataclass(frozen=True)
class Rule:
    """A measure with the name of its setting and of the reason it gives for a drop; which side is too much."""

    setting: str
    reason: str
    measure: Measure
    source: str = ""

    @property
    def is_minimum(self) -> bool:
        """Whether the setting is the smallest value allowed; otherwise it is the largest."""
        return self.setting.startswith("min_")


def all_characters(batch: TextBatch) -> np.ndarray:
    """Characters of the whole text, also of what is not judged."""
    return np.fromiter(map(len, batch.whole), np.float64, len(batch))


def filled_characters(batch: TextBatch) -> np.ndarray:
    """Characters that are not blank."""
    return batch.characters.astype(np.float64)


def words(batch: TextBatch) -> np.ndarray:
    """What stands between blanks."""
    return batch.sums(batch.words.documents)


def all_words(batch: TextBatch) -> np.ndarray:
    """Words of the whole text, also of what is not judged."""
    counts = words(batch)
    for index, (text, whole) in enumerate(zip(batch.texts, batch.whole, strict=True)):
        if text is not whole:
            counts[index] = len(whole.split())
    return counts


def mean_word_length(batch: TextBatch) -> np.ndarray:
    """Characters of a word."""
    return _ratio(batch.characters, words(batch))


def kind_share(batch: TextBatch, low: int, high: int) -> np.ndarray:
    """Share of characters of some kinds in those that are not blank."""
    kinds = batch.kinds
    return _ratio(batch.totals(kinds == low if low == high else (kinds >= low) & (kinds <= high)), batch.characters)


def symbols_per_word(batch: TextBatch) -> np.ndarray:
    """Hash signs, or ellipses if there are more of them, to a word."""
    hashes, ellipses = batch.count("#"), batch.count("…") + _count(batch, "...")
    return _ratio(np.maximum(hashes, ellipses), words(batch))


def alphabetic_words(batch: TextBatch) -> np.ndarray:
    """Share of words with a letter in them."""
    letters = np.concatenate(([0], np.cumsum(batch.kinds >= LETTER, dtype=np.int32)))
    with_letter = letters[batch.words.ends] > letters[batch.words.starts]
    return _ratio(batch.sums(batch.words.documents[with_letter]), words(batch))


def stop_words(batch: TextBatch) -> np.ndarray:
    """How many different ones of `STOP_WORDS` there are."""
    hashes = batch.hashes(batch.words) if batch.tokens is not batch.words else batch.token_hashes
    found = np.zeros(len(batch))
    for stop_word in word_hashes(STOP_WORDS):
        present = np.zeros(len(batch), bool)
        present[batch.words.documents[hashes == stop_word]] = True
        found += present
    return found


def bullet_lines(batch: TextBatch) -> np.ndarray:
    """Share of lines that begin with a bullet."""
    return _line_share(batch, np.isin(batch.codes[batch.lines.starts], code_points(BULLETS)))


def ellipsis_lines(batch: TextBatch) -> np.ndarray:
    """Share of lines that end with an ellipsis."""
    dots = np.ones(len(batch.lines.ends), bool)
    for back in (1, 2, 3):  # a line of fewer characters looks at the line before, whose end is no dot
        dots &= batch.codes[np.maximum(batch.lines.ends - back, 0)] == ord(".")
    return _line_share(batch, dots | (batch.codes[batch.lines.ends - 1] == ord("…")))


def punctuated_lines(batch: TextBatch) -> np.ndarray:
    """Share of lines that end with a mark that ends a sentence, perhaps before a closing quote or bracket."""
    last = batch.lines.ends - 1
    ends = batch.kinds[last] == TERMINAL
    closed = np.isin(batch.codes[last], code_points(CLOSERS)) & (batch.lines.lengths > 1)
    return _line_share(batch, ends | (closed & (batch.kinds[np.maximum(last - 1, 0)] == TERMINAL)))


def short_lines(batch: TextBatch) -> np.ndarray:
    """Share of lines of at most `SHORT_LINE` characters."""
    return _line_share(batch, batch.lines.lengths <= SHORT_LINE)


def line_breaks_per_word(batch: TextBatch) -> np.ndarray:
    """Line ends to a word."""
    return _ratio(batch.count("\n") - 1, words(batch))


def sentence_marks(batch: TextBatch) -> np.ndarray:
    """Marks that end a sentence."""
    return batch.totals(batch.kinds == TERMINAL).astype(np.float64)


def curly_brackets(batch: TextBatch) -> np.ndarray:
    """Share of curly brackets in the characters that are not blank."""
    return _ratio(batch.count("{") + batch.count("}"), batch.characters)


def lorem_ipsum(batch: TextBatch) -> np.ndarray:
    """How often the printers' filler text begins."""
    return _count(batch, "orem ipsum") + _count(batch, "OREM IPSUM")


def notice_lines(batch: TextBatch) -> np.ndarray:
    """Share of lines with a phrase of `NOTICES`: scripts, cookies, terms of use; page menus in Chinese."""
    found = _notice_finder(batch.language).find(batch.small)
    lines = np.zeros(len(batch.lines.starts), bool)
    positions = np.fromiter((position for position, _ in found), np.int64, len(found))
    lines[np.searchsorted(batch.lines.starts, positions, side="right") - 1] = True
    return _line_share(batch, lines)


def duplicates(batch: TextBatch, unit: str, characters: bool) -> np.ndarray:
    """Share of lines or paragraphs that have been there before, in number or in characters."""
    if unit not in batch.duplicates:
        batch.duplicates[unit] = duplicate_shares(batch, batch.lines if unit == "lines" else batch.paragraphs)
    return batch.duplicates[unit][int(characters)]


@cache
def _notice_finder(language: str) -> PhraseFinder:
    return PhraseFinder(NOTICES[language])


def _count(batch: TextBatch, phrase: str) -> np.ndarray:
    if phrase not in batch.joined:
        return np.zeros(len(batch))
    return np.fromiter((text.count(phrase) for text in batch.texts), np.float64, len(batch))


def _line_share(batch: TextBatch, mask: np.ndarray) -> np.ndarray:
    documents = batch.lines.documents
    return _ratio(batch.sums(documents[mask]), batch.sums(documents))


def _ratio(numbers: np.ndarray, of: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(of > 0, numbers / of, np.nan)


GOPHER, C4, FINEWEB = "Gopher", "C4", "FineWeb"

RULES = (  # in the order in which they are tried: the first that a text fails is the one it is counted under
    Rule("min_characters", "too_few_characters", filled_characters),
    Rule("max_characters", "too_many_characters", all_characters),
    Rule("min_words", "too_few_words", all_words, GOPHER),
    Rule("max_words", "too_many_words", all_words, GOPHER),
    Rule("min_han_share", "too_little_han", partial(kind_share, low=HAN, high=HAN)),
    Rule("max_punctuation_share", "too_much_punctuation", partial(kind_share, low=PUNCTUATION, high=TERMINAL)),
    Rule("max_digit_share", "too_many_digits", partial(kind_share, low=DIGIT, high=DIGIT)),
    Rule("min_sentence_marks", "too_few_sentence_marks", sentence_marks, C4),
    Rule("min_mean_word_length", "words_too_short", mean_word_length, GOPHER),
    Rule("max_mean_word_length", "words_too_long", mean_word_length, GOPHER),
    Rule("max_symbols_per_word", "too_many_symbols", symbols_per_word, GOPHER),
    Rule("max_bullet_lines", "too_many_bullets", bullet_lines, GOPHER),
    Rule("max_ellipsis_lines", "too_many_ellipses", ellipsis_lines, GOPHER),
    Rule("min_alphabetic_words", "too_few_alphabetic_words", alphabetic_words, GOPHER),
    Rule("min_stop_words", "too_few_stop_words", stop_words, GOPHER),
    Rule("max_curly_brackets", "too_many_curly_brackets", curly_brackets, C4),
    Rule("max_lorem_ipsum", "lorem_ipsum", lorem_ipsum, C4),
    Rule("max_notice_lines", "page_notices", notice_lines, C4),
    Rule("min_punctuated_lines", "too_few_punctuated_lines", punctuated_lines, FINEWEB),
    Rule("max_short_lines", "too_many_short_lines", short_lines, FINEWEB),
    Rule("max_line_breaks_per_word", "list", line_breaks_per_word, FINEWEB),
    Rule("max_duplicate_lines", "duplicate_lines", partial(duplicates, unit="lines", characters=False), GOPHER),
    Rule(
        "max_duplicate_line_characters", "duplicate_line_characters", partial(duplicates, unit="lines", characters=True)
    ),
    Rule("max_duplicate_paragraphs", "duplicate_paragraphs", partial(duplicates, unit="paragraphs", characters=False)),
    Rule(
        "max_duplicate_paragraph_characters",
        "duplicate_paragraph_characters",
        partial(duplicates, unit="paragraphs", characters=True),
    ),
)
