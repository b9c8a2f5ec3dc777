"""A real Chromium for the tests of the web page, and what a person does there: choose, write, wait, read."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 360, "height": 740}
PATIENCE_S = 120  # for one short answer on a busy machine


def find_chromium() -> str | None:
    """The Chromium or Chrome of this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


class Visitor:
    """A person with a browser of their own: nothing stored, every request noted.

    Args:
        key: typed into the field for it when a page is opened; empty for none.
    """

    def __init__(self, browser: Browser, url: str, key: str = "", **context: Any):
        self.url, self.key = url, key
        self.context: BrowserContext = browser.new_context(**{"viewport": WIDE, **context})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.hosts: set[str] = set()
        self.mistakes: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))

    def open(self, path: str = "/ui/") -> "Visitor":
        """Go to a page, give the key, wait for the models."""
        self.page.goto(self.url + path)
        self.ready()
        return self

    def reload(self) -> None:
        """As F5 does; the key is gone then and is typed again."""
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        """Until the page can be used."""
        self.page.wait_for_selector("#message textarea")
        if self.key:
            self.page.fill("#key input", self.key)
            self.page.press("#key input", "Enter")
            self.with_models()

    def with_models(self) -> "Visitor":
        """Until there is a model to ask."""
        self.until(lambda: self.page.input_value("#model input") != "", "no models came")
        return self

    def until(self, condition: Callable[[], Any], failure: str, seconds: float = PATIENCE_S) -> Any:
        """Wait for something to be true; gives what it was."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"{failure} after {seconds} s: note '{self.text('#chat-note')}'"
            self.page.wait_for_timeout(40)
        return value

    def text(self, selector: str) -> str:
        """What is written in a place."""
        return self.page.inner_text(selector).strip()

    def messages(self) -> list[str]:
        """The conversation on the page."""
        return self.page.evaluate("[...document.querySelectorAll('#chat .message')].map((one) => one.innerText.trim())")

    def preset(self, name: str) -> None:
        """Choose a decoding by the name on the page."""
        self.choose("#preset", name)
        self.page.wait_for_timeout(300)

    def choose(self, dropdown: str, option: str) -> None:
        """Choose an entry of a dropdown."""
        self.page.click(f"{dropdown} input")
        self.page.get_by_role("option", name=option, exact=True).click()

    def parameters(self, **values: Any) -> None:
        """Type values into the controls of the decoding, such as max_tokens=20."""
        if not self.page.is_visible("#max-tokens"):
            self.page.click("#parameters > button")
            self.page.wait_for_selector("#max-tokens")
        for name, value in values.items():
            place = f"#{name.replace('_', '-')}"
            field = (
                f"{place} input[type=number]" if name not in ("seed", "stop") else f"{place} textarea, {place} input"
            )
            self.page.locator(field).first.fill(str(value))
            self.page.locator(field).first.press("Tab")
        self.page.wait_for_timeout(300)

    def ask(self, message: str, wait: bool = True) -> None:
        """Send a message of the chat with Enter."""
        before = self.page.locator("#chat .message.user").count()
        self.page.fill("#message textarea", message)
        self.page.press("#message textarea", "Enter")
        self.until(lambda: self.page.locator("#chat .message.user").count() > before, "the question did not appear")
        if wait:
            self.finished()

    def finished(self, stop: str = "#chat-stop") -> None:
        """Until the answer has ended."""
        self.until(lambda: not self.page.is_visible(stop), "no answer")
        self.page.wait_for_timeout(200)

    def grown(self, times: int = 3) -> list[str]:
        """The last answer at times when it was longer than before, while it was being written."""
        seen = [""]

        def longer() -> str:
            messages = self.messages()
            text = messages[-1] if messages and len(messages) % 2 == 0 else ""
            return text if len(text) > len(seen[-1]) else ""

        while len(seen) <= times:
            assert self.page.is_visible("#chat-stop"), f"it ended early: {seen}"
            seen.append(self.until(longer, "the text did not grow"))
        return seen[1:]

    def close(self) -> None:
        """Shut the browser's window."""
        self.context.close()
