"""Text of web pages: what a reader of the page came for, without menus, link lists, scripts and forms.

resiliparse (Bevendorff et al. 2018, chatnoir.eu) parses the page and renders its text, with paragraphs, lists and
preformatted code as they look. What is main content is decided here, by two rules that hold in any language: elements
made for navigation are left out, and so are lines more than half of whose characters are links (link density, as in
Kohlschütter et al. 2010, "Boilerplate Detection using Shallow Text Features"). resiliparse's own rules count words and
lose the short inline elements of Chinese sentences.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec

from datatrove.data import Document

from src.corpus.readers.charset import decode_page
from src.corpus.readers.lines import whole
from src.corpus.readers.slices import Input
from src.errors import UserError

NEVER_SHOWN = ["[hidden]", "[style*='display:none']", "[style*='display: none']", "template", "svg", "iframe", "object"]
# words of class and id, whole: "with-sidebar" is often the whole page
AROUND: tuple[str, ...] = (
    "nav",
    "navbar",
    "navigation",
    "menu",
    "sidebar",
    "breadcrumb",
    "breadcrumbs",
    "footer",
    "copyright",
    "pager",
)
AROUND += ("pagination", "cookie-banner", "cookie-consent", "share", "social", "related", "toolbar", "search")
ROLES = ("navigation", "banner", "contentinfo", "search", "complementary", "menu", "menubar", "dialog")
NAVIGATION = ["nav", "footer", "aside", "menu", "dialog", "button", "select"]  # not form: it may hold the whole page
NAVIGATION += [f"[role={role}]" for role in ROLES]
NAVIGATION += [selector for word in AROUND for selector in (f"[class~='{word}']", f"[id='{word}']")]
MAX_LINK_SHARE = 0.5
OPEN, CLOSE = "\ufdd0", "\ufdd1"  # noncharacters: they stand around links until their share is known
MAX_LINK_CHARACTERS = 1000  # of a link over several lines; beyond, its end tag is taken for missing
_MARKS = re.compile(f"[{OPEN}{CLOSE}]")
_LINK_START = re.compile(r"<a\s(?=[^<>]{0,2000}?href)[^<>]{0,2000}>", re.IGNORECASE)
_LINK_END = re.compile(r"</a\s*>", re.IGNORECASE)
_LONG_LINK = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]{{0,{MAX_LINK_CHARACTERS}}}){CLOSE}")
_LINK = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*)")
_NOT_WORDS = re.compile(r"\W+")  # bullets and bars between links are no text


def read_html(input: Input) -> Iterator[Document]:
    """The document of an HTML file."""
    raw = whole(input)
    if raw is None:
        return
    page, replaced = decode_page(raw)
    text = page_text(page, main_content=input.reading.main_content)
    if input.accept(text, replaced):
        yield Document(text, input.name)


def page_text(page: str, *, main_content: bool = True) -> str:
    """The text of an HTML page, paragraphs between blank lines.

    Args:
        main_content: leave out navigation and lines that are mostly links.

    Raises:
        UserError: resiliparse is not installed.
    """
    require_resiliparse()
    from resiliparse.extract.html2text import extract_plain_text

    page = _MARKS.sub("", page)
    if not main_content:
        return extract_plain_text(page, skip_elements=NEVER_SHOWN, alt_texts=False)
    page = _LINK_END.sub(CLOSE + r"\g<0>", _LINK_START.sub(r"\g<0>" + OPEN, page))
    marked = extract_plain_text(page, skip_elements=NEVER_SHOWN + NAVIGATION, alt_texts=False)
    return _without_link_lines(_LONG_LINK.sub(_each_line, marked))


def _each_line(link: re.Match[str]) -> str:
    return "\n".join(f"{OPEN}{line}{CLOSE}" for line in link.group(1).split("\n"))


def require_resiliparse() -> None:
    """Raise a `UserError` where the library that reads web pages is missing."""
    if find_spec("resiliparse") is None:
        raise UserError("web pages are read with resiliparse, which is not installed: pip install 'resiliparse>=2.0'")


def _without_link_lines(marked: str) -> str:
    """The lines that are not mostly links, without their marks and with at most one blank line between them."""
    lines: list[str] = []
    for line in marked.splitlines():
        if _is_links(line):
            continue
        line = _MARKS.sub("", line).rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).rstrip("\n")


def _is_links(line: str) -> bool:
    if OPEN not in line:
        return False
    linked = sum(len(_NOT_WORDS.sub("", text)) for text in _LINK.findall(line))
    return linked > MAX_LINK_SHARE * len(_NOT_WORDS.sub("", _MARKS.sub("", line)))
