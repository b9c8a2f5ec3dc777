"""The pictures of docs/web.md: ``python tests/serving/web_screenshots.py http://127.0.0.1:8000``, with the page served
there by ``python scripts/serve.py web=true adapters='{tuned: FOLDER}'`` with the adapter that the demo tunes. Look at
them before they are kept.
"""

import sys
from pathlib import Path

from tests.serving.web_browser import NARROW, Visitor, browser, find_chromium

SENTENCE = "抽取三元组(头,关系,尾)：创始人、位于\n何明光创立的立光电机位于长田市。"
CURIE = (
    "Marie Curie was born in Warsaw, Poland. She worked at the University of Paris with Pierre Curie, and founded the "
    "Curie Institute there."
)
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"


def main(url: str) -> None:
    executable = find_chromium()
    if executable is None:
        sys.exit("there is no chromium on the PATH")
    with browser(executable) as chromium:
        chat(Visitor(chromium, url).open().with_models())
        compare(Visitor(chromium, url, color_scheme="dark").open("/ui/zh/").with_models())
        extraction(Visitor(chromium, url).open().with_models())
        narrow(Visitor(chromium, url, viewport=NARROW, has_touch=True).open("/ui/zh/").with_models())


def chat(visitor: Visitor) -> None:
    """A conversation with the parameters open."""
    visitor.parameters(max_tokens=90, seed=3)
    visitor.ask("Why is the sky blue? Answer in two sentences.")
    visitor.ask("And at sunset?", wait=False)
    visitor.grown(2)
    shoot(visitor, "web_chat.png")
    visitor.finished()


def compare(visitor: Visitor) -> None:
    """The two models side by side, in Chinese and dark."""
    visitor.preset("贪心")
    visitor.parameters(max_tokens=40)
    visitor.page.get_by_role("tab", name="对比").click()
    visitor.page.fill("#compare-message textarea", SENTENCE)
    visitor.page.click("#compare-run")
    visitor.until(lambda: visitor.page.input_value("#right-output textarea"), "no answer")
    visitor.finished("#compare-stop")
    shoot(visitor, "web_compare.png")


def extraction(visitor: Visitor) -> None:
    """Relations of two sentences, with their picture."""
    visitor.page.get_by_role("tab", name="Extraction").click()
    visitor.page.fill("#extraction-text textarea", CURIE)
    visitor.choose("#task", "Relations with types")
    visitor.page.click("#extraction-run")
    visitor.until(lambda: visitor.page.locator("#extraction-output .extraction").count(), "nothing was shown")
    visitor.finished("#extraction-stop")
    visitor.page.screenshot(path=FOLDER / "web_extraction.png", full_page=True)


def narrow(visitor: Visitor) -> None:
    """A telephone."""
    visitor.preset("贪心")
    visitor.parameters(max_tokens=48)
    visitor.page.click("#parameters > button")
    visitor.ask("你好！请用一句话介绍北京。")
    shoot(visitor, "web_narrow.png")


def shoot(visitor: Visitor, name: str) -> None:
    """The page from its top."""
    visitor.page.evaluate("window.scrollTo(0, 0)")
    visitor.page.screenshot(path=FOLDER / name)


if __name__ == "__main__":
    main(sys.argv[1])
