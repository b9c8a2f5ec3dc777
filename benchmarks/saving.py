"""How every benchmark writes its results: ``benchmarks/results/NAME.json`` with machine, versions, date and results."""

import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Result:
    """One line of the results. `ratio` is ours over the peer's: a time is better below 1, a speed above."""

    metric: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None
    unit: str
    note: str


def former(name: str) -> list[dict[str, Any]]:
    """Results that were written before, for a benchmark of which only some parts were run now."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []


def save(name: str, results: Sequence[dict[str, Any]], packages: Iterable[str]) -> None:
    """Write the results of a benchmark with the versions of those packages that are installed."""
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": dict(_versions(packages)),
        "date": datetime.now(UTC).date().isoformat(),
        "results": results,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
