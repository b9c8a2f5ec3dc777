"""Text to entities, relations and events: schemas, prompts, answers held to a form, places in the text, scores."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.extraction.extractor import Extractor

__all__ = ["Extractor"]


def __getattr__(name: str) -> Any:
    """`Extractor`, imported when it is asked for: most who import this package want one small file of it."""
    if name == "Extractor":
        from src.extraction.extractor import Extractor

        return Extractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
