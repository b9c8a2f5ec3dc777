"""Wikitext to plain text that knows its links: what a reader of the page sees as running text.

Tables, references, formulas, galleries and templates are left out, but for the templates of `templates.py`. The parser
is mwparserfromhell, which never fails: what it cannot read stays as it is written.
"""

import re
from collections.abc import Iterable
from typing import Any

from src.errors import UserError
from src.instructions.kg2instruction.linked_text import LinkedText, Mark
from src.instructions.kg2instruction.names import chinese, title_key
from src.instructions.kg2instruction.templates import template_text
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikipedia import Site

FORMULA = "\ufffc"  # stands where a formula was: a paragraph with one cannot be read without it
SKIPPED_TAGS = {
    *(
        "ref",
        "references",
        "table",
        "gallery",
        "timeline",
        "score",
        "syntaxhighlight",
        "source",
        "imagemap",
        "mapframe",
    ),
    *(
        "poem",
        "style",
        "div",
        "noinclude",
        "includeonly",
        "hiero",
        "templatestyles",
        "graph",
        "tr",
        "td",
        "th",
        "caption",
    ),
}
# Sections that hold lists of other texts. Compared in lower case.
SKIPPED_SECTIONS = {
    *("references", "external links", "see also", "further reading", "notes", "footnotes", "bibliography", "citations"),
    *("sources", "notes and references", "works cited", "discography", "filmography"),
    *(
        "参考文献",
        "參考文獻",
        "外部链接",
        "外部連結",
        "参见",
        "參見",
        "注释",
        "註釋",
        "延伸阅读",
        "延伸閱讀",
        "相关条目",
    ),
    *("參考資料", "参考资料", "參看", "参看", "脚注", "腳註", "参考", "來源", "来源"),
}
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*$|simple$")  # written small: "CSI" of "CSI: Miami" is none
_PROJECT = re.compile(r"(?:[bcdnqsvw]|wikt|wiktionary|commons|wikisource|wikiquote|wikidata|species)$", re.I)
_TRAIL = re.compile(r"[a-z]+")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_VARIANT_FLAGS = re.compile(r"^\s*([A-Z;\s]*|zh[a-z-]*(?:;zh[a-z-]*)*)\s*\|")
_SIMPLE_CODES = ("zh-cn", "zh-hans", "zh-my", "zh-sg", "zh")
# Comments, references and switches, a third of many pages: gone before the parser, for speed and as it leaves some of
# them in the text.
_UNSEEN = re.compile(
    r"(?<=\n)[ \t]*<!--.*?-->[ \t]*\n|<!--.*?-->"
    r"|<ref\b[^<>]*(?<=/)>|<ref\b[^<>]*(?<!/)>[^<]*(?:<(?!/?ref\b)[^<]*)*</ref\s*>"
    r"|__(?-i:[A-Z]+)__",
    re.S | re.I,
)
BLOCKS = {"p", "blockquote", "center"}
_LINE_BREAK = re.compile(r"(?<=[^\n])\n(?=[^\n*{|!])")
# What is left where something was taken out of brackets, and other traces. Applied in this order.
_TRACES = (
    (re.compile(r"[ \t\u00a0]+"), " "),
    (re.compile(r"(?<=[(（])[ ]*(?:[,;:，；、：][ ]*)+"), ""),
    (re.compile(r"(?:[,;:，；、：][ ]*)+(?=[)）])"), ""),
    (re.compile(r"[ ]?(?:\([ ]*\)|（[ ]*）)"), ""),
    (re.compile(r"[ ]+(?=[,.;:)](?:\s|$))|(?<=\()[ ]+|[ ]+(?=\n)|(?<=\n)[ ]+"), ""),
    (re.compile(r"(?<=[;,])[ ]*[;,](?=\s)"), ""),
)


def plain_text(wikitext: str, language: Language, site: Site) -> LinkedText:
    """The running text of a page, its links and what is bold in it. Paragraphs are lines.

    Raises:
        UserError: mwparserfromhell is not installed.
    """
    try:
        import mwparserfromhell
    except ImportError:
        raise UserError("reading wikitext needs mwparserfromhell: pip install -e '.[kg2instruction]'") from None
    source = _UNSEEN.sub("", wikitext)
    if language == "zh":
        source = _VARIANT.sub(lambda match: chosen_variant(match[1]), source)
    walk = _Walk(language, site)
    walk.nodes(mwparserfromhell.parse(source).nodes)
    found = LinkedText("".join(walk.pieces), tuple(sorted(walk.marks, key=lambda mark: (mark.start, -mark.end))))
    for pattern, replacement in _TRACES:
        found = found.sub(pattern, replacement)
    return found.sub(_LINE_BREAK, _joint)


def _joint(match: re.Match[str]) -> str:
    """What stands for the end of a line within a paragraph: nothing between Chinese characters, else a blank."""
    text, place = match.string, match.start()
    if text.startswith("* ", text.rfind("\n", 0, place) + 1):
        return "\n"  # an item of a list ends with its line
    return "" if chinese(text[place - 1]) or chinese(text[place + 1]) else " "


def chosen_variant(markup: str) -> str:
    """What a reader of simplified Chinese sees of the inside of ``-{…}-``."""
    flags = _VARIANT_FLAGS.match(markup)
    if flags:
        if re.search(r"[HATDN]", flags[1]):
            return ""  # rules for the whole page, which show nothing
        markup = markup[flags.end() :]
    forms = dict(
        (part.partition(":")[0].strip(), part.partition(":")[2].strip()) for part in markup.split(";") if ":" in part
    )
    if not forms or not all(code.startswith("zh") for code in forms):
        return markup
    return next((forms[code] for code in _SIMPLE_CODES if code in forms), next(iter(forms.values())))


class _Walk:
    """Collects the visible text of nodes and the marks on it."""

    def __init__(self, language: Language, site: Site) -> None:
        self.language = language
        self.site = site
        self.pieces: list[str] = []
        self.marks: list[Mark] = []
        self.size = 0
        self._skipping = 0  # level of the heading whose section is left out, 0 for none
        self._open_link: int | None = None  # a mark that the letters right after it belong to

    def nodes(self, nodes: Iterable[Any]) -> None:
        """Take nodes one after another."""
        for node in nodes:
            kind = type(node).__name__
            if kind == "Heading":
                self._heading(node)
            elif not self._skipping:
                handler = getattr(self, f"_{kind.lower()}", None)
                if handler is not None:  # comments and arguments of templates show nothing
                    handler(node)

    def _write(self, text: str) -> None:
        self.pieces.append(text)
        self.size += len(text)

    def _text(self, node: Any) -> None:
        text = str(node.value)
        if self._open_link is not None and self.language == "en" and (trail := _TRAIL.match(text)):
            mark = self.marks[self._open_link]  # [[bus]]es is a link that reads "buses"
            self.marks[self._open_link] = Mark(mark.start, mark.end + trail.end(), mark.target)
        self._open_link = None
        self._write(text)

    def _heading(self, node: Any) -> None:
        title = node.title.strip_code().strip().lower()
        if self._skipping and node.level > self._skipping:
            return
        self._skipping = node.level if title in SKIPPED_SECTIONS else 0
        self._open_link = None
        self._write("\n")

    def _wikilink(self, node: Any) -> None:
        self._open_link = None
        title = node.title.strip_code().strip()
        shown = node.text
        forced = title.startswith(":")
        title = title.lstrip(":").strip()
        space, colon, _ = title.partition(":")
        space = space.strip() if colon else ""
        hidden = space.lower() in self.site.hidden or _LANGUAGE.match(space)
        foreign = hidden or space.lower() in self.site.namespaces or _PROJECT.match(space)
        if (hidden and not forced) or (foreign and shown is None):
            return  # a file, a category, this page in another language, or the bare title of something else
        start = self.size
        if shown is None or not str(shown).strip():
            self._write(title if shown is None else _without_qualifier(title))
        else:
            self.nodes(shown.nodes)
        page = title.partition("#")[0].strip()
        if page and not foreign and self.size > start:
            self.marks.append(Mark(start, self.size, title_key(page, self.language)))
            self._open_link = len(self.marks) - 1

    def _externallink(self, node: Any) -> None:
        if node.title is not None:
            self.nodes(node.title.nodes)

    def _htmlentity(self, node: Any) -> None:
        self._write(node.normalize())

    def _tag(self, node: Any) -> None:
        name = str(node.tag).strip().lower()
        if name == "br":
            self._write(" ")
        elif name == "math":
            self._write(FORMULA)
        elif name in ("li", "dt", "dd") and node.wiki_markup:
            self._write("* ")  # marks a line as one of a list
        elif name not in SKIPPED_TAGS and node.contents is not None:
            start = self.size
            edge = "\n\n" if name in BLOCKS else ""
            self._write(edge)
            self.nodes(node.contents.nodes)
            self._write(edge)
            if name == "b" and self.size > start:
                self.marks.append(Mark(start, self.size))

    def _template(self, node: Any) -> None:
        value = template_text(node, self.language)
        if isinstance(value, str):
            self._write(value)
        elif value is not None:
            self.nodes(value.nodes)


def _without_qualifier(title: str) -> str:
    """``[[Paris (mythology)|]]`` reads "Paris"."""
    return re.sub(r"\s*[(（][^()（）]*[)）]$|,.*$", "", title)
