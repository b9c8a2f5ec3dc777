"""What was edited, when and how: a folder of deltas and a list of events that survives a crash between any two.

    FOLDER/ledger.jsonl      the model on its first line, then an event a line: an edit applied, an edit removed
    FOLDER/deltas/ID.safetensors

A delta is written whole before its line is, and a line is written before the model's weights change, so that after a
crash the ledger says at most that an edit is there which only has to be put on again. A last line that was cut off is
dropped, and so are deltas without a line. Nothing is ever overwritten: a removed edit stays in the history.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from src.editing.deltas import Change, Delta, EditedWeights, read_delta, write_delta
from src.editing.edit import Edit
from src.errors import UserError

FORMAT = 1
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Entry:
    """An edit in the ledger, or a batch that was made at once.

    edits: what it says.
    method, settings: how it was made.
    time: ISO 8601, UTC.
    sha256: of the delta's file.
    numbers: that the delta stores.
    """

    id: str
    edits: tuple[Edit, ...]
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    sha256: str = ""
    numbers: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "edits": [edit.as_dict() for edit in self.edits]}


class Ledger:
    """The edits of one model in one folder. One process writes at a time.

    Args:
        folder: made if it is not there.
        model: its name, for people.
        fingerprint: of its weights before any edit (`src.editing.deltas.fingerprint`).

    Raises:
        UserError: the folder is of another model, was changed by hand, or another process writes to it.
    """

    def __init__(self, folder: str | Path, model: str, fingerprint: str) -> None:
        self.folder, self.model, self.fingerprint = Path(folder).expanduser(), model, fingerprint
        self._file = self.folder / "ledger.jsonl"
        self.history: dict[str, Entry] = {}
        self._active: dict[str, None] = {}
        try:
            (self.folder / "deltas").mkdir(parents=True, exist_ok=True)
            self._stream = self._file.open("a+b")
        except OSError as error:
            raise UserError(
                f"no ledger can be kept in {self.folder} ({error.strerror}): give another folder"
            ) from error
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise UserError(f"another process writes to the ledger in {self.folder}: stop it first") from error
        try:
            self._read()
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write."""
        self._stream.close()

    @property
    def active(self) -> list[Entry]:
        """The edits that are made and not taken back, oldest first."""
        return [self.history[id] for id in self._active]

    def delta(self, id: str) -> dict[str, Change]:
        """The delta of an edit, its bytes checked. Raises `UserError`."""
        return read_delta(self._delta_file(id), self._entry(id).sha256)

    def conflicts(self, edit: Edit) -> list[Entry]:
        """The active entries that say something else of the same subject and relation."""
        return [entry for entry in self.active if any(edit.contradicts(other) for other in entry.edits)]

    def add(self, edits: Sequence[Edit], delta: Delta, method: str, settings: dict[str, Any] | None = None) -> Entry:
        """Write down an edit that is about to be put on the model. Its id is the edit's, or a number."""
        id = self._new_id(edits)
        about = {"model": self.model, "fingerprint": self.fingerprint, "method": method, "id": id}
        partial = self._delta_file(id).with_suffix(".partial")
        sha256 = write_delta(partial, delta, about)
        _sync(partial)
        partial.rename(self._delta_file(id))
        _sync(partial.parent)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        numbers = sum(change.numbers for change in delta.values())
        entry = Entry(id, tuple(edits), method, dict(settings or {}), now, sha256, numbers)
        self._append({"event": "apply", **entry.as_dict()})
        self.history[id] = entry
        self._active[id] = None
        return entry

    def remove(self, id: str) -> Entry:
        """Write down that an edit is taken back. Raises `UserError` where it is not active."""
        entry = self._entry(id)
        if id not in self._active:
            raise UserError(f"the edit '{id}' was taken back already")
        self._append({"event": "remove", "id": id, "time": datetime.now(UTC).isoformat(timespec="seconds")})
        del self._active[id]
        return entry

    def restore(self, weights: EditedWeights) -> None:
        """Put the active edits on a model whose weights are those before any edit."""
        for entry in self.active:
            if entry.id not in weights:
                weights.apply(entry.id, self.delta(entry.id))

    def _entry(self, id: str) -> Entry:
        if id not in self.history:
            known = ", ".join(list(self.history)[-8:]) or "none"
            raise UserError(f"there is no edit '{id}' in {self.folder}; there are {known}")
        return self.history[id]

    def _delta_file(self, id: str) -> Path:
        return self.folder / "deltas" / f"{id}.safetensors"

    def _new_id(self, edits: Sequence[Edit]) -> str:
        wanted = edits[0].id if len(edits) == 1 and ID.fullmatch(edits[0].id) else ""
        if wanted and wanted not in self.history:
            return wanted
        prefix = wanted + "-" if wanted else ""
        number = len(self.history) + 1
        while f"{prefix}{number}" in self.history:
            number += 1
        return f"{prefix}{number}"

    def _append(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _read(self) -> None:
        self._stream.seek(0)
        data = self._stream.read()
        whole = data[: data.rfind(b"\n") + 1]  # what follows is a line that a crash cut off
        if len(whole) < len(data):
            self._stream.truncate(len(whole))
        lines = whole.splitlines()
        if not lines:
            self._append({"format": FORMAT, "model": self.model, "fingerprint": self.fingerprint})
        for number, line in enumerate(lines, 1):
            with self._named(number):
                self._take(json.loads(line), number)
        for stray in self.folder.joinpath("deltas").iterdir():
            if stray.suffix == ".partial" or (stray.suffix == ".safetensors" and stray.stem not in self.history):
                stray.unlink()  # of an edit that was never written down

    @contextmanager
    def _named(self, line: int) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._file}, line {line} is no event of a ledger ({error!r}): restore the file, or give a new folder"
            ) from error

    def _take(self, event: dict[str, Any], line: int) -> None:
        if line == 1:
            if event["format"] != FORMAT:
                raise UserError(f"{self._file} has format {event['format']}, and this version reads {FORMAT}")
            if event["fingerprint"] != self.fingerprint:
                raise UserError(
                    f"the ledger in {self.folder} is of other weights ('{event['model']}', here '{self.model}'): "
                    "load that model without edits, or give another folder"
                )
        elif event["event"] == "apply":
            found = {key: value for key, value in event.items() if key != "event"}
            edits = tuple(Edit.from_dict(each) for each in found.pop("edits"))
            self.history[found["id"]] = Entry(edits=edits, **found)
            self._active[found["id"]] = None
        elif event["event"] == "remove":
            del self._active[event["id"]]
        else:
            raise ValueError(event["event"])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
