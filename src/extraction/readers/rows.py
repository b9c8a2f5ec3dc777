"""The JSON records of a file, numbered: an array, or one object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.readers.rejects import RejectedError, Rejects


def read_rows(path: Path, rejects: Rejects) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (of an array: numbers of elements) and objects; lines that are none are rejected.

    Raises:
        UserError: the file is an array that is not JSON, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            head = stream.read(64).lstrip()
            stream.seek(0)
            if head.startswith("["):
                yield from _of_array(path, json.load(stream), rejects)
                return
            for number, line in enumerate(stream, 1):
                if not (line := line.lstrip("\ufeff").strip()):
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:  # a number of 5000 digits, 100,000 brackets
                    rejects.add(path, number, RejectedError("not JSON", str(error)), line[:2000])
                    continue
                yield from _object(path, number, row, rejects)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it, with iconv for instance") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): mend it, or give one object a line") from None


def _of_array(path: Path, rows: Any, rejects: Rejects) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(rows, 1):
        yield from _object(path, number, row, rejects)


def _object(path: Path, number: int, row: Any, rejects: Rejects) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(row, dict):
        yield number, row
    else:
        rejects.add(path, number, RejectedError("not an object", f"{row!r:.80}"), row)
