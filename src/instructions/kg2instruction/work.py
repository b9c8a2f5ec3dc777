"""The work folder of a run: what is to be done, where the files between its steps lie, and what the steps counted."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zstandard

from src.instructions.kg2instruction.settings import Settings
from src.instructions.kg2instruction.vocabulary import Language

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Work:
    """What every step knows.

    folder: of the files that are only needed until the run is finished.
    request: what is asked for, as text; equal for equal work.
    index: where Wikidata is read into.
    wikidata, wikipedia: dump files.
    parts: tasks for the pages of each Wikipedia file.
    """

    folder: Path
    request: str
    settings: Settings
    index: Path
    wikidata: tuple[Path, ...]
    wikipedia: tuple[Path, ...]
    parts: tuple[int, ...]

    @property
    def language(self) -> Language:
        return self.settings.language  # type: ignore[return-value]

    @property
    def tasks(self) -> int:
        """How many tasks make records."""
        return sum(self.parts)

    @property
    def redirects(self) -> Path:
        return self.folder / "redirects.sqlite"

    def redirect_list(self, file: int) -> Path:
        """Redirects of one Wikipedia file."""
        return self.folder / f"redirects-{file:05d}.jsonl"

    def pages(self, task: int) -> Path:
        """Pages that one task makes records of."""
        return self.folder / f"pages-{task:05d}.jsonl.zst"

    def records(self, task: int) -> Path:
        """Records that one task made."""
        return self.folder / f"records-{task:05d}.jsonl.zst"

    def site(self, file: int) -> Path:
        """What the head of one Wikipedia file says."""
        return self.folder / f"site-{file:05d}.json"

    def write_counts(self, step: str, task: int, counts: Mapping[str, float]) -> None:
        """Keep what a step counted in a task."""
        write_json(self.folder / f"counts-{step}-{task:05d}.json", dict(counts))

    def read_counts(self, step: str) -> dict[str, float]:
        """What a step counted in all tasks together."""
        total: Counter[str] = Counter()
        for file in sorted(self.folder.glob(f"counts-{step}-*.json")):
            total.update(json.loads(file.read_text(encoding="utf-8")))
        return dict(sorted(total.items()))


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class RowWriter:
    """Writes JSON rows into a .zst file that gets its name when `close` is called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.tmp")
        self._raw = self._temporary.open("wb")
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(self._raw)

    def write(self, row: Any) -> None:
        """Append a row."""
        self._stream.write(orjson.dumps(row) + b"\n")

    def close(self, keep: bool = True) -> None:
        """Finish the file, or throw it away."""
        self._stream.close()
        self._raw.close()
        if keep:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink()


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of a file that a `RowWriter` wrote."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        rest = b""
        while block := stream.read(BLOCK_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            yield from map(orjson.loads, lines)
