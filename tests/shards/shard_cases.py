"""Shards in all three formats with the same contents, and the smallest tokenizer there is."""

import hashlib
import itertools
from pathlib import Path

import numpy as np

from src.shards.format import Shard, ShardWriter
from src.shards.manifest import Counts, Manifest
from src.shards.token_file import TokenFile

DOCUMENTS = [[[1, 2, 3], [4]], [[299]], [], [[7, 8], [9]], [[5, 6]]]


class Letters:
    """A vocabulary of 300 tokens, one character each; ids above 255 are special."""

    name = "letters"
    vocab_size = 300
    fingerprint = hashlib.sha256(b"letters").hexdigest()

    def __init__(self) -> None:
        self.tokens = [chr(0x4E00 + index) for index in range(256)] + [f"<s{index}>" for index in range(44)]
        self.byte_lengths = np.array([3] * 256 + [0] * 44, np.int32)


def write(prefix: Path, documents: list[list[list[int]]] = DOCUMENTS, dtype: type = np.uint16) -> Path:
    """A Megatron shard of these ids."""
    with ShardWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document([np.array(segment, np.int64) for segment in document])
    return prefix


def contents(file: TokenFile) -> list[list[list[int]]]:
    """Documents, segments and ids of a token file, read one segment at a time."""
    starts = file.document_starts(0, file.documents + 1).tolist()
    return [[file.segment(index).tolist() for index in range(begin, end)] for begin, end in itertools.pairwise(starts)]


def make_source(
    folder: Path, name: str = "zh", splits: tuple[str, ...] = ("train", "validation"), files: int = 1
) -> Path:
    """A folder of shards with a manifest, as preprocessing leaves it; every split and file holds `DOCUMENTS`."""
    folder = folder / name
    counts, sums = {}, {}
    for split in splits:
        for number in range(files):
            prefix = folder / f"{split}-{number:05d}"
            with ShardWriter(prefix, np.uint16) as writer:
                for document in DOCUMENTS:
                    writer.add_document([np.array(segment) for segment in document])
            sums |= writer.sums
        shard = Shard(prefix)
        size = int(shard.tokens.size)
        counts[split] = Counts(files * shard.documents, files * len(shard), files * size, files * 3 * (size - 1))
    vocabulary = Letters()
    facts = (name, vocabulary.name, vocabulary.fingerprint, 300, 4, "uint16")
    Manifest(*facts, splits=counts, settings={"of": name}, files=sums).save(folder)
    return folder
