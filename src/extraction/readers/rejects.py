"""Rows that could not be read or used: which, where, why."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class RejectedError(ValueError):
    """This row can't be used. ``reason`` is for counting, ``detail`` says what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass
class Rejects:
    """Rejected rows with their counts by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, line: int, error: RejectedError, row: Any) -> None:
        """Keep a row. ``line``: counted from 1; in a JSON array the number of the element."""
        self.counts[error.reason] += 1
        found = {"file": path.name, "line": line, "reason": error.reason, "detail": error.detail, "row": row}
        self.rows.append(found)

    def __len__(self) -> int:
        return len(self.rows)

    def write(self, path: Path) -> None:
        """Write the rows as JSONL; halves of surrogate pairs, which are no characters, as JSON's escapes."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")

    def __str__(self) -> str:
        return ", ".join(f"{count} × {reason}" for reason, count in self.counts.most_common()) or "none"
