"""Licence headers of source files: the comment at the beginning that says who owns it and who may copy it.

The same few texts stand in front of millions of files, and a model that learns them has learned nothing about code.
"""

import re

_KEPT = re.compile(  # what must stay first for the file to work
    r"\A\ufeff?(?:#![^\n]*\n|[ \t]*#[^\n]*coding[:=][^\n]*\n|<\?(?:php|xml)[^\n]*\n|<!DOCTYPE[^\n]*\n|[ \t]*\n)*",
    re.IGNORECASE,
)
_BLOCKS = (
    re.compile(r"[ \t]*/\*.*?\*/[ \t]*(?:\n|\Z)", re.DOTALL),
    re.compile(r"[ \t]*<!--.*?-->[ \t]*(?:\n|\Z)", re.DOTALL),
    re.compile(r"[ \t]*\(\*.*?\*\)[ \t]*(?:\n|\Z)", re.DOTALL),
    *(re.compile(rf"(?:[ \t]*{mark}[^\n]*(?:\n|\Z))+") for mark in ("//", "#(?![ \t]*(?:include|define|if|pragma))")),
    *(
        re.compile(rf"(?:[ \t]*{mark}[^\n]*(?:\n|\Z))+")
        for mark in ("--", ";", "%", "!", r"\.\\\"", r"(?i:rem\b)", '"')
    ),
)
_LICENCE = re.compile(
    r"copyright\b|\(c\) ?\d{4}|©|spdx-license|all rights reserved|licen[cs]ed? (?:under|to)"
    r"|permission is hereby granted|redistributions? (?:and use|of source)"
    r"|(?:general public|apache|mit|bsd|mozilla public|isc) licen[cs]e|public domain|版权所有|许可证",
    re.IGNORECASE,
)
_BLANK_LINES = re.compile(r"(?:[ \t\r]*\n)*")
_LONGEST = 20_000  # characters; a licence in full has about 11,000


def without_licence_header(text: str) -> str:
    """A source file without comments about copyright at its beginning; the same object where there are none.

    A ``#!`` line, an encoding line and the like stay. Other comments before and after stay too.
    """
    start = _KEPT.match(text).end()  # type: ignore[union-attr]
    end = start
    while (block := _block(text, end)) is not None and _LICENCE.search(text, end, block):
        end = block
        end = _BLANK_LINES.match(text, end).end()  # type: ignore[union-attr]
    return text if end == start else text[:start] + text[end:]


def _block(text: str, start: int) -> int | None:
    """Where the comment that begins at a position ends; of one longer than a licence, the last line that fits."""
    limit = start + _LONGEST
    if limit < len(text):  # or \Z would match in the middle of a line
        limit = text.rfind("\n", start, limit) + 1
    for pattern in _BLOCKS:
        if (block := pattern.match(text, start, limit)) is not None and block.end() > start:
            return block.end()
    return None
