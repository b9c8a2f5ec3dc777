"""What a path of token shards means: a file or prefix of any format, or a folder of them with or without a manifest."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.shards.format import MAGIC, Shard, shard_file
from src.shards.knowlm import KnowLMTriple
from src.shards.manifest import FILE_NAME, Manifest
from src.shards.npy import SIDECARS, NpyTokens
from src.shards.token_file import TokenFile

SUFFIXES = (".idx", ".bin", ".dis", ".npy")


@dataclass(frozen=True)
class Reading:
    """What formats leave open.

    row_length: cut a ``.npy`` stream without lengths into rows of so many tokens.
    document_start: the id that opens a document in a KnowLM triple; None: every sample is a document.
    """

    row_length: int | None = None
    document_start: int | None = None


@dataclass
class Collection:
    """Token files that one path names, by split; a path without a manifest has one split, named ``""``."""

    path: Path
    splits: dict[str, list[TokenFile]]
    manifest: Manifest | None = None

    @property
    def files(self) -> list[TokenFile]:
        """The files of all splits."""
        return [file for files in self.splits.values() for file in files]

    @property
    def format(self) -> str:
        """Format of the first file."""
        return self.files[0].format


def open_collection(path: str | Path, reading: Reading | None = None) -> Collection:
    """Open everything that a path names.

    Args:
        path: a folder, or a shard by its prefix or by one of its files.

    Raises:
        UserError: there are no token shards, or they are damaged.
    """
    path = Path(path).expanduser()
    reading = reading or Reading()
    if not path.is_dir():
        return Collection(path, {"": [open_token_file(path, reading)]})
    manifest = Manifest.load(path) if (path / FILE_NAME).is_file() else None
    splits: dict[str, list[TokenFile]] = {}
    for prefix in _prefixes(path):
        split = prefix.name.rpartition("-")[0] if manifest else ""
        splits.setdefault(split, []).append(open_token_file(prefix, reading))
    if not splits:
        raise UserError(f"{path} holds no token shards (.idx with .bin, or .npy): give another path")
    return Collection(path, splits, manifest)


def open_token_file(path: Path, reading: Reading) -> TokenFile:
    """Open one shard by its prefix or one of its files, whichever of the three formats it has."""
    if path.suffix == ".npy":
        return NpyTokens(path, reading.row_length)
    prefix = path.with_suffix("") if path.suffix in SUFFIXES and path.exists() else path
    index = shard_file(prefix, ".idx")
    if not index.is_file():
        stream = shard_file(prefix, ".npy")
        if stream.is_file():
            return NpyTokens(stream, reading.row_length)
        raise UserError(
            f"{path} is no token shard (there is no {index.name} and no {stream.name}): give a folder of shards, or a "
            "shard by its prefix"
        )
    with index.open("rb") as opened:
        magic = opened.read(len(MAGIC))
    if magic != MAGIC and (shard_file(prefix, ".dis").is_file() or index.stat().st_size % 10 == 0):
        return KnowLMTriple(prefix, reading.document_start)
    return Shard(prefix)


def _prefixes(folder: Path) -> Iterable[Path]:
    """Every shard of a folder once, in the order of names."""
    indices = {path.with_suffix("") for path in folder.glob("*.idx")}
    streams = {path for path in folder.glob("*.npy") if not path.name.endswith(SIDECARS)}
    return sorted(indices | streams)
