"""The page says the same things in both languages."""

import re
import string

import pytest

from src.command import ROOT
from src.extraction.formats.format import Status
from src.extraction.schema import Task
from src.serving.web.presets import load_presets
from src.serving.web.settings import CONTROLS
from src.serving.web.tabs.extraction import CONSTRAINTS
from src.serving.web.texts import LANGUAGES, language_of, texts_of

WEB = ROOT / "src" / "serving" / "web"


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_gaps() -> None:
    english, chinese = texts_of("en").all, texts_of("zh").all
    assert list(english) == list(chinese)
    assert {key: names(text) for key, text in english.items()} == {key: names(text) for key, text in chinese.items()}


def asked_for() -> set[str]:
    """The keys that the code names, whole or put together."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in WEB.rglob("*.py"))
    asked = set(re.findall(r"texts\(\s*[\"'](\w+)[\"']", code)) | set(re.findall(r'remark="(\w+)"', code))
    asked |= {f"{control}{end}" for control in CONTROLS for end in ("", "_info")}
    asked |= {f"{kind}_{preset.name}" for preset in load_presets() for kind in ("preset", "about")}
    return (
        asked
        | {f"finish_{reason}" for reason in ("stop", "length")}
        | {f"task_{task}" for task in Task}
        | {f"status_{status}" for status in Status}
        | {f"constraint_{name}" for name in CONSTRAINTS}
        | {f"column_{name}" for name in ("type", "item", "score")}
        | {"compare_left", "compare_right", "note_waiting"}
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_that_the_code_asks_for_is_there(language: str) -> None:
    asked = asked_for()
    assert len(asked) > 60 and not asked - set(texts_of(language).all)


def test_no_text_is_left_that_nobody_asks_for() -> None:
    errors = {key for key in texts_of("en").all if re.fullmatch(r"error_(\d+|other)", key)}
    assert set(texts_of("en").all) - errors == asked_for()


def test_the_chinese_page_is_in_chinese() -> None:
    same = {key for key, text in texts_of("zh").all.items() if text == texts_of("en").all[key]}
    assert same == {"title", "top_p", "top_k", "min_p"}


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("de-DE,en;q=0.5,zh;q=0.3", "en"), ("fr", "en"), ("", "en"), ("zh-TW", "zh")],
)
def test_the_language_is_the_first_of_the_browser_that_we_have(header: str, language: str) -> None:
    assert language_of(header) == language
