"""Whether token shards are what they claim to be, read from the first byte to the last.

Opening a shard checks its header and its ends only, which takes no time. Here every index entry is compared with the
one before it, every id with the vocabulary, the counts and the checksums with the manifest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.shards.atomic import checksum
from src.shards.collection import Collection
from src.shards.manifest import Counts, Manifest
from src.shards.token_file import Advance, Span, TokenFile, document_blocks, ignore, length_blocks, token_blocks


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    where: the file or split.
    what: "index", "ids", "counts" or "checksum".
    problem: a sentence, or "" where all is well.
    """

    where: str
    what: str
    problem: str = ""


def verify(collection: Collection, vocabulary_size: int | None = None, advance: Advance = ignore) -> Iterator[Check]:
    """Check every file of a collection, and the collection against its manifest.

    Args:
        vocabulary_size: ids must be below it; by default the manifest's.
        advance: called with numbers of tokens as they are read.
    """
    manifest = collection.manifest
    limit = vocabulary_size or (manifest.vocabulary_size if manifest else None)
    for split, files in collection.splits.items():
        for file in files:
            yield Check(file.path.name, "index", index_problem(file, manifest.max_length if manifest else None))
            yield Check(file.path.name, "ids", ids_problem(file, limit, advance))
        if manifest:
            yield Check(split, "counts", _counts_problem(split, files, manifest))
    if manifest:
        for split in sorted(manifest.splits.keys() - collection.splits.keys()):
            if manifest.splits[split].segments:
                yield Check(split, "counts", f"the manifest counts {split} shards and there are none")
        paths = [path for file in collection.files for path in file.files]
        yield from checksum_checks(collection.path, paths, manifest)


def index_problem(file: TokenFile, max_length: int | None = None) -> str:
    """What is wrong with an index, "" if nothing: segments in a row, documents rising, none longer than allowed."""
    span = Span.whole(file)
    if span.segments != range(len(file)) or (len(file) and span.tokens != range(file.tokens.size)):
        return f"its documents cover segments {span.segments.start} to {span.segments.stop} of {len(file)}"
    try:
        done = 0
        for lengths in length_blocks([span]):
            if max_length is not None and lengths.max() > max_length:
                at = done + int((lengths > max_length).argmax())
                return f"segment {at} has {lengths.max()} tokens, the manifest says at most {max_length}"
            done += len(lengths)
        for _ in document_blocks([span]):
            pass
    except UserError as error:
        return str(error)
    return ""


def ids_problem(file: TokenFile, vocabulary_size: int | None = None, advance: Advance = ignore) -> str:
    """What is wrong with the ids, "" if nothing; without a size they only have to be 0 or more."""
    done = 0
    for block in token_blocks([Span.whole(file)], advance=advance):
        wrong = block < 0
        if vocabulary_size is not None:
            wrong |= block >= vocabulary_size
        if wrong.any():
            at = int(wrong.argmax())
            size = "" if vocabulary_size is None else f" of {vocabulary_size}"
            return f"token {done + at} has id {int(block[at])}, which is not in the vocabulary{size}"
        done += len(block)
    return ""


def _counts_problem(split: str, files: list[TokenFile], manifest: Manifest) -> str:
    counts = manifest.splits.get(split, Counts())
    pairs = {
        "segments": (sum(map(len, files)), counts.segments),
        "tokens": (sum(file.tokens.size for file in files), counts.tokens),
    }
    if files[0].format != "knowlm":  # which records no documents
        pairs["documents"] = (sum(file.documents for file in files), counts.documents)
    return "; ".join(
        f"{found} {what} where the manifest counts {expected}"
        for what, (found, expected) in pairs.items()
        if found != expected
    )


def checksum_checks(folder: Path, paths: list[Path], manifest: Manifest) -> Iterator[Check]:
    """Compare the files of a folder with the sums of its manifest, if it has any."""
    found = {path.name for path in paths}
    for name in sorted(found | manifest.files.keys() if manifest.files else ()):
        if name not in found:
            yield Check(name, "checksum", "the manifest names it and it is missing")
        elif name not in manifest.files:
            yield Check(name, "checksum", "the manifest does not name it: it is from another run")
        else:
            same = checksum(folder / name) == manifest.files[name]
            yield Check(name, "checksum", "" if same else "its contents changed since it was written (other SHA-256)")
