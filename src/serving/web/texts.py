"""What the page says, in English and Chinese: one YAML file a language, with the same keys."""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FOLDER = Path(__file__).parent / "texts"
LANGUAGES = {"en": "English", "zh": "中文"}


class Texts:
    """The texts of one language. ``texts(key, name=value)`` fills in the ``{name}`` of the text."""

    def __init__(self, language: str):
        self.language = language
        self.all: dict[str, str] = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{language}.yaml"))  # type: ignore

    def __call__(self, key: str, **values: Any) -> str:
        return self.all[key].format(**values) if values else self.all[key]

    def __contains__(self, key: str) -> bool:
        return key in self.all


@cache
def texts_of(language: str) -> Texts:
    """The texts of a language of `LANGUAGES`, read once."""
    return Texts(language)


def language_of(accept_language: str) -> str:
    """The language of the page for a browser's ``Accept-Language``: the first that we have, else English."""
    for part in accept_language.split(","):
        code = part.split(";")[0].strip().lower().split("-")[0]
        if code in LANGUAGES:
            return code
    return "en"
