"""A model's answer to the JSON object it means, by a ladder whose rungs are named in every report.

1. exact: the answer is JSON and nothing else
2. trimmed: what stands around the first object is left out: a label, a code fence, what was thought before, run-on text
3. lenient: almost JSON (`src.extraction.formats.lenient_json`)
4. closed: the answer stops, or stops making sense, inside the object: what was complete before is kept
5. repaired: read by json-repair, where that package is installed
6. failed

The model's text is never trusted: no evaluation, a cap on length and depth, time linear in the length. What is exact
gives the same with and without tolerance.
"""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

from src.extraction.formats.format import Status
from src.extraction.formats.lenient_json import MAX_DEPTH, merged, number, read_object

MAX_CHARS = 1_000_000
MAX_REPAIRED_CHARS, MAX_REPAIRED_BRACKETS = 4_000, 64  # json-repair's time grows faster than the text
MAX_TRIES = 8  # places where an object may begin

# a bracket after which an object can go on: not one of a prose text or a formula
_BEGIN = re.compile(r"[{｛](?=[\s\x00-\x1f]*([\"'`“”‘’＂「『}｝]|[^\s\"'{}\[\],:：，]{1,60}[\"'”’]?\s{0,9}[:：]))")
_MEMBER = re.compile(r"[\s\x00-\x1f]*([\"'“‘][^\"'“”‘’\r\n]{1,60}[\"'”’]\s{0,9}[:：])")
_THOUGHT = "</think>"
_LONE = re.compile("[\ud800-\udfff]")
# NaN and Infinity are no JSON: nothing
_DECODER = json.JSONDecoder(parse_float=number, parse_constant=lambda _: None, object_pairs_hook=merged)


def parse_object(answer: str, strict: bool = False) -> tuple[dict[str, Any] | None, Status]:
    """The object that an answer states, and the rung it was read by; never raises.

    Args:
        strict: take exact JSON only.

    Returns:
        None where nothing could be read. Texts of the object hold no lone surrogates, so they can be written anywhere.
    """
    if len(answer) > MAX_CHARS:
        return None, Status.FAILED
    try:
        found = _DECODER.decode(answer.strip())
    except (ValueError, RecursionError):
        found = None
    else:
        if _depth(answer, found) > MAX_DEPTH:
            return None, Status.FAILED
    if isinstance(found, dict):
        return _clean(found), Status.EXACT
    if strict:
        return None, Status.FAILED
    found, status = _tolerant(answer)
    return (None, status) if found is None else (_clean(found), status)


def _tolerant(answer: str) -> tuple[dict[str, Any] | None, Status]:
    text = answer.rpartition(_THOUGHT)[2]
    begins = [found.start() for found, _ in zip(_BEGIN.finditer(text), range(MAX_TRIES), strict=False)]
    empty = None  # an object without members, taken where no other follows
    for begin in begins:
        found = _plain(text, begin)
        if found is None:
            break
        if found:
            return found, Status.TRIMMED
        empty = Status.TRIMMED
    for begin in begins:
        found, complete = read_object(text, begin + 1)
        if found:
            return found, Status.LENIENT if complete else Status.CLOSED
        empty = empty or (Status.LENIENT if complete else None)
    if empty:
        return {}, empty
    if not begins and (first := _MEMBER.match(text)):  # the outer brackets are missing
        found, _ = read_object(text, first.start(1))
        if found:
            return found, Status.CLOSED
    if (repaired := _repaired(text)) is not None:
        return repaired, Status.REPAIRED
    return None, Status.FAILED


def _plain(text: str, begin: int) -> dict[str, Any] | None:
    try:
        found, end = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _depth(text[begin:end], found) <= MAX_DEPTH else None


def _repaired(text: str) -> dict[str, Any] | None:
    repair = _repairer()
    # of a text that stops early json-repair would take halves of values for whole ones
    if repair is None or len(text) > MAX_REPAIRED_CHARS or not text.rstrip("` \n").endswith("}"):
        return None
    if text.count("{") + text.count("[") > MAX_REPAIRED_BRACKETS:
        return None
    try:
        found = repair(text)
    except Exception:  # whatever a foreign parser stumbles over in garbage, the garbage stays unread
        return None
    if not isinstance(found, dict) or not found or _depth(text, found) > MAX_DEPTH:
        return None
    return found


@functools.cache
def _repairer() -> Callable[[str], Any] | None:
    try:
        from json_repair import loads
    except ImportError:
        return None
    return loads


def _depth(text: str, value: Any) -> int:
    """Depth of a value, at most one more than the cap; without a look at it where the text has too few brackets."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH + 1:
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1
    return depth - 1


def _clean(value: Any) -> Any:
    """A value whose texts can be encoded: half a surrogate pair becomes the replacement character."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value
