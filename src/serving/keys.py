"""API keys: made at random, kept as SHA-256 sums, compared in constant time.

A key has 256 random bits, so a plain sum can't be turned back, and no slow hash is needed. A keys file has a line
``name:sha256`` for each key; ``#`` begins a comment.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from src.errors import UserError

PREFIX = "knowlm-"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
SUM = re.compile(r"[0-9a-f]{64}")
MIN_LENGTH = 16  # of a key that somebody made up


class KeyRing:
    """The keys of a server, by the SHA-256 sum of each. An empty ring lets everybody in."""

    def __init__(self, names: Mapping[str, str]):
        self._keys = [(bytes.fromhex(digest), name) for digest, name in names.items()]

    def __len__(self) -> int:
        return len(self._keys)

    def owner(self, key: str) -> str | None:
        """Name of a key, or None; takes equally long whichever key it is."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for known, name in self._keys:
            if hmac.compare_digest(known, digest):
                found = name
        return found


def load_keys(keys_file: str | None = None, plain: Iterable[str] = ()) -> KeyRing:
    """The keys of a file and those given in plain text (named ``key1``, ``key2``, …). Raises `UserError`."""
    names: dict[str, str] = {}
    if keys_file is not None:
        names |= _read(Path(keys_file))
    for number, key in enumerate((key.strip() for key in plain), 1):
        if len(key) < MIN_LENGTH:
            raise UserError(
                f"API key {number} has {len(key)} characters: give {MIN_LENGTH} or more, or make one with new_key=NAME"
            )
        if not all(" " < letter <= "~" for letter in key):
            raise UserError(f"API key {number} has characters that no header can carry: use letters, digits and signs")
        digest, name = sha256(key), f"key{number}"
        if digest in names:
            raise UserError(f"API key {number} is the key '{names[digest]}' again: give it once")
        if name in names.values():
            raise UserError(
                f"keys_file={keys_file} has the name '{name}', which API key {number} gets: change it there"
            )
        names[digest] = name
    return KeyRing(names)


def new_key(name: str) -> tuple[str, str]:
    """A new key, and the line of the keys file that lets it in. Raises `UserError` for a name with odd characters."""
    if not NAME.fullmatch(name):
        raise UserError(f"new_key={name} is no name of a key: use letters, digits, '.', '_' and '-', at most 64")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"{name}:{sha256(key)}"


def sha256(key: str) -> str:
    """Hexadecimal sum of a key."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"keys_file={path} does not exist: make its first line with new_key=NAME")
    names: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, _, digest = line.rpartition(":")
        if not NAME.fullmatch(name) or not SUM.fullmatch(digest.lower()):
            raise UserError(f"line {number} of keys_file={path} is not name:sha256: make one with new_key=NAME")
        if digest.lower() in names:
            raise UserError(f"line {number} of keys_file={path} is the key '{names[digest.lower()]}' again: drop it")
        if name in names.values():
            raise UserError(f"line {number} of keys_file={path} has the name '{name}' again: give each key its own")
        names[digest.lower()] = name
    if not names:
        raise UserError(f"keys_file={path} has no key: make a line with new_key=NAME")
    return names
