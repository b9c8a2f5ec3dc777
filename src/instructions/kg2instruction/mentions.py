"""Which stretches of a page name which items: links first, then bold names of the page's item, then known names.

A name is looked for only where it can lead to a triple: it must belong to an item that is linked or is the page's own,
or to one that Wikidata relates to such an item. Of several items with the same name the one with most relations to the
items that are accepted so far is taken, then the better known. A name that is a link somewhere on the page means the
same everywhere on it.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from src.errors import UserError
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.linked_text import LinkedText, Mark
from src.instructions.kg2instruction.names import chinese, name_key, simplified, title_key
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikipedia import Redirects

Source = Literal["link", "title", "name", "ner"]
Dictionary = Literal["neighbours", "all", "none"]
FindSpans = Callable[[str], Iterable[tuple[int, int]]]  # a named-entity recogniser: text to offsets

MAX_HEADS = 1000  # items with a relation to the page's own whose names are looked for
TITLE_REACH = 1500  # characters at the start of a page in which bold type is a name of what it is about
MIN_LENGTH = {"en": 3, "zh": 2}
STOP = {
    *[
        "the",
        "and",
        "for",
        "not",
        "but",
        "his",
        "her",
        "its",
        "was",
        "are",
        "has",
        "had",
        "who",
        "one",
        "two",
        "may",
        "all",
        "new",
        "our",
        "you",
        "she",
        "they",
        "this",
        "that",
        "with",
        "from",
    ],
    *(
        "first",
        "second",
        "third",
        "other",
        "many",
        "most",
        "north",
        "south",
        "east",
        "west",
        "more",
        "will",
        "can",
        "see",
    ),
    *(
        "中国人",
        "第一",
        "第二",
        "其中",
        "同时",
        "之后",
        "以及",
        "可以",
        "没有",
        "我们",
        "他们",
        "一个",
        "开始",
        "成为",
        "世界",
        "时间",
    ),
}


@dataclass(frozen=True)
class Mention:
    """A stretch of a text, in characters, that names an item."""

    start: int
    end: int
    item: int
    source: Source


class MentionFinder:
    """Finds the mentions of pages.

    Args:
        dictionary: ``neighbours``: names that can lead to a triple; ``all``: every name of the index, in memory (some
            GB for a whole Wikipedia); ``none``: only links and titles.
        ner: tells further stretches that are names; those that the index knows are taken.

    Raises:
        UserError: an unknown dictionary, or pyahocorasick is not installed.
    """

    def __init__(
        self,
        index: KnowledgeIndex,
        redirects: Redirects,
        dictionary: Dictionary = "neighbours",
        ner: FindSpans | None = None,
    ) -> None:
        if dictionary not in ("neighbours", "all", "none"):
            raise UserError(f"dictionary={dictionary} is not known: choose neighbours, all or none")
        self.index, self.redirects, self.dictionary, self.ner = index, redirects, dictionary, ner
        self.language: Language = index.language
        self._all = automaton(index.all_names(), self.language) if dictionary == "all" else None

    def find(self, own: int, page: LinkedText) -> list[Mention]:
        """The mentions of a page in order, of which none overlap; ``own`` is the item that it is about."""
        found = _Mentions([m for mark in page.marks if (m := self._marked(mark, page.text, own)) is not None])
        accepted = _Accepted(self.index, {own, *(mention.item for mention in found.all)})
        senses: dict[str, int] = {}
        for mention in found.all:
            senses.setdefault(name_key(page.text[mention.start : mention.end], self.language), mention.item)
        for start, end, source in self._named(page.text, own, accepted):
            if not found.overlaps(start, end) and not self._goes_on(page.text, start, end):
                name = name_key(page.text[start:end], self.language)
                item = senses.get(name) or self._meant(name, accepted, source)
                if item is not None:
                    found.add(Mention(start, end, item, source))
                    accepted.add(item)
        return found.all

    def item_of(self, title: str) -> int | None:
        """The item of a title, through redirects."""
        return self.index.titled(self.redirects.follow(title_key(title, self.language)))

    def _marked(self, mark: Mark, text: str, own: int) -> Mention | None:
        shown = text[mark.start : mark.end]
        if mark.target is None:
            named = mark.end <= TITLE_REACH and 1 < len(shown) <= 100
            return Mention(mark.start, mark.end, own, "title") if named else None
        item = self.item_of(mark.target)
        if item is None or not self._is_name(shown, item, mark.target):
            return None
        return Mention(mark.start, mark.end, item, "link")

    def _is_name(self, shown: str, item: int, target: str) -> bool:
        """Whether the words of a link name what it leads to; "landed" does not name the Moon landing."""
        if len(shown) < 2 or "\n" in shown:
            return False
        if self.language == "zh" or not shown[0].islower():
            return True
        names = {name.lower() for name in (*self.index.names(item), target)}
        word = shown.lower()
        return word in names or any(word.removesuffix(ending) in names for ending in ("s", "es"))

    def _named(self, text: str, own: int, accepted: "_Accepted") -> Iterator[tuple[int, int, Source]]:
        """Stretches that may be names: of the dictionary the longest from the left, then those of the recogniser."""
        view = simplified(text, self.language)
        words = self._all
        if self.dictionary == "neighbours":
            items = accepted.items | set(accepted.related) | set(self.index.heads(own, MAX_HEADS))
            words = automaton((name for item in items for name in self.index.names(item)), self.language)
        if words is not None:
            for start, end in longest(words, view.text):
                yield *view.back(start, end), "name"
        if self.ner is not None:
            for start, end in self.ner(text):
                yield start, end, "ner"

    def _goes_on(self, text: str, start: int, end: int) -> bool:
        """Whether a stretch is only part of a longer name that the index knows, as "Europe" of "Council of Europe"."""
        ends = list(_ends_after(text, end, self.language))
        starts = list(_starts_before(text, start, self.language))
        longer = [(one, other) for one in (start, *starts) for other in (end, *ends) if (one, other) != (start, end)]
        return any(self.index.named(name_key(text[one:other], self.language)) for one, other in longer)

    def _meant(self, name: str, accepted: "_Accepted", source: Source) -> int | None:
        """The item that a name means here; None where nothing on the page speaks for any."""
        candidates = self.index.named(name) or self.index.named(name[:1].lower() + name[1:])
        if not candidates:
            return None
        support = {item: accepted.support(item) for item in candidates}
        best = max(candidates, key=lambda item: support[item])  # the first of equals is the best known
        if support[best] or (len(candidates) == 1 and (self.dictionary == "all" or source == "ner")):
            return best
        return None


class _Mentions:
    """Mentions in order of which none overlap; the first to come stays."""

    def __init__(self, mentions: Iterable[Mention]) -> None:
        self.all: list[Mention] = []
        for mention in mentions:
            if not self.overlaps(mention.start, mention.end):
                self.add(mention)

    def overlaps(self, start: int, end: int) -> bool:
        place = bisect_left(self.all, end, key=lambda mention: mention.start)
        return place > 0 and self.all[place - 1].end > start

    def add(self, mention: Mention) -> None:
        self.all.insert(bisect_left(self.all, mention.start, key=lambda one: one.start), mention)


class _Accepted:
    """The items that are certain on a page. ``related``: how many of them have a relation to an item."""

    def __init__(self, index: KnowledgeIndex, items: Iterable[int]) -> None:
        self._index = index
        self.items: set[int] = set()
        self.related: Counter[int] = Counter()
        for item in sorted(items):
            self.add(item)

    def add(self, item: int) -> None:
        if item not in self.items:
            self.items.add(item)
            self.related.update({tail for _, tail in self._index.relations(item)})

    def support(self, item: int) -> int:
        """How many accepted items are related to this one, in either direction; itself counts as well."""
        tails = {tail for _, tail in self._index.relations(item)}
        return self.related[item] + len(tails & self.items) + (item in self.items)


def automaton(names: Iterable[str], language: Language) -> Any:
    """An Aho-Corasick automaton of the names that are worth looking for, or None where there are none.

    A sentence may begin with a name, so one that is written small is also looked for with a big first letter.
    """
    try:
        import ahocorasick
    except ImportError:
        raise UserError("dictionary=neighbours needs pyahocorasick: pip install -e '.[kg2instruction]'") from None
    words = ahocorasick.Automaton()
    for name in names:
        if len(name) < MIN_LENGTH[language] or name.lower() in STOP or not any(map(str.isalpha, name)):
            continue
        for spelling in {name, name[:1].upper() + name[1:]}:
            words.add_word(spelling, len(spelling))
    if not len(words):
        return None
    words.make_automaton()
    return words


MAX_MORE = {"en": 2, "zh": 4}  # words or characters by which a longer name may go on at either end
_NEXT_WORD = re.compile(r" (?:(?:of|the|and|for|de|von) ){0,2}[A-Z][^\W_]*")
_WORD_BEFORE = re.compile(r"[A-Z][^\W_]* (?:(?:of|the|and|for|de|von) ){0,2}$")


def _ends_after(text: str, end: int, language: Language) -> Iterator[int]:
    """Where a name that goes on might end."""
    for _ in range(MAX_MORE[language]):
        if language == "zh":
            if end >= len(text) or not chinese(text[end]):
                return
            end += 1
        elif (word := _NEXT_WORD.match(text, end)) is not None:
            end = word.end()
        else:
            return
        yield end


def _starts_before(text: str, start: int, language: Language) -> Iterator[int]:
    """Where a name that began earlier might begin."""
    for _ in range(MAX_MORE[language]):
        if language == "zh":
            if start <= 0 or not chinese(text[start - 1]):
                return
            start -= 1
        elif (word := _WORD_BEFORE.search(text, max(0, start - 40), start)) is not None:
            start = word.start()
        else:
            return
        yield start


_LETTER = re.compile(r"[^\W_]")


def longest(words: Any, text: str) -> Iterator[tuple[int, int]]:
    """Where names stand, the longest of those that begin first; only whole words, but between Chinese characters."""
    done = 0
    hits = sorted((last + 1 - length, -length) for last, length in words.iter(text))
    for start, negative in hits:
        end = start - negative
        if start >= done and bounded(text, start, end):
            yield start, end
            done = end


def bounded(text: str, start: int, end: int) -> bool:
    """Whether a stretch does not cut a word: Latin letters and digits do not go on, Chinese characters may."""
    return not (_joined(text[start - 1 : start], text[start]) or _joined(text[end - 1], text[end : end + 1]))


def _joined(left: str, right: str) -> bool:
    return bool(_LETTER.match(left) and _LETTER.match(right)) and not (chinese(left) or chinese(right))
