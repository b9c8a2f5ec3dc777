"""Which files belong to a source, and what each of them is by its name."""

import glob
from collections.abc import Iterable
from pathlib import Path

from src.corpus.readers.reading import Format
from src.errors import UserError

FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "txt",
    ".parquet": "parquet",
    ".warc": "warc",
    ".wet": "warc",
    ".html": "html",
    ".htm": "html",
}
COMPRESSIONS = (".gz", ".zst")
KNOWN = ".jsonl, .txt, .warc, .wet, .html (each also .gz or .zst) and .parquet"


def find_files(paths: str | Path | Iterable[str | Path], format: Format | None = None) -> list[Path]:
    """Input files of a source, sorted: files, globs, and folders (searched to the bottom, hidden files left out).

    Args:
        format: what the files are, whatever their names end in; a folder then gives all its files.

    Raises:
        UserError: a path leads to no file, or to one of another format.
    """
    found: set[Path] = set()
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path))]
            files = [p for p in inside if format or format_of(p)]
        elif path.is_file():
            files = [path]
        else:
            files = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
        if not files:
            raise UserError(f"'{given}' leads to no input file: give a file, folder or glob of {KNOWN} files")
        for file in files:
            if not (format or format_of(file)):
                raise UserError(f"{file} is none of the formats that can be read: {KNOWN}; or say which with format=")
        found.update(files)
    return sorted(found)


def format_of(file: str | Path) -> Format | None:
    """The format a file's name tells, None for one that cannot be read."""
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        known = FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if known == "parquet" else known  # Parquet compresses inside
    return FORMATS.get(suffixes[-1]) if suffixes else None


def compression_of(file: str | Path) -> str | None:
    """``.gz``, ``.zst`` or None."""
    suffix = Path(file).suffix.lower()
    return suffix if suffix in COMPRESSIONS else None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
