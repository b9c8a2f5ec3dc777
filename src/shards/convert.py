"""Merge, split and convert token shards of any format, in constant memory.

A folder with a manifest stays one: every split of it is treated alike and the result is a folder that training reads.
A shard without a manifest gives shards without one, named by the output. Nothing is overwritten unless asked to, and
nothing bears its final name before it is complete.
"""

import bisect
import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.shards.atomic import FileSum
from src.shards.collection import Collection, open_collection
from src.shards.format import write_shard
from src.shards.knowlm import write_triple
from src.shards.manifest import FILE_NAME, Counts, Manifest
from src.shards.npy import write_npy
from src.shards.spelling import Vocabulary
from src.shards.token_file import Advance, Span, counted_segments, counted_tokens, ignore, token_blocks

FORMATS = ("megatron", "knowlm", "npy")


@dataclass(frozen=True)
class Writing:
    """How results are written.

    format: one of `FORMATS`; None keeps that of the input.
    advance: called with numbers of tokens as they are written.
    """

    format: str | None = None
    overwrite: bool = False
    advance: Advance = ignore

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise UserError(f"to={self.format} is no format of token shards: choose one of {', '.join(FORMATS)}")


@dataclass
class Content:
    """What one output file will hold: documents of other files, and segments of each kind (for KnowLM's ``.dis``)."""

    spans: list[Span]
    groups: list[int]


def merge(collections: Sequence[Collection], output: Path, writing: Writing) -> Path:
    """Put the documents of all collections one after the other.

    KnowLM's format records each collection as a kind of data of its own.

    Raises:
        UserError: some have a manifest and others not, or other tokenizers made them.
    """
    contents: dict[str, Content] = {}
    for collection in collections:
        for split in collection.splits:
            whole = _whole(collection, split)
            content = contents.setdefault(split, Content([], []))
            content.spans += whole.spans
            content.groups += whole.groups
    manifests = [collection.manifest for collection in collections if collection.manifest]
    if manifests and len(manifests) < len(collections):
        bare = next(collection.path for collection in collections if not collection.manifest)
        raise UserError(
            f"{bare} has no {FILE_NAME} and the others have: merge shards by their prefixes, or give it one with "
            "action=convert tokenizer=…"
        )
    manifest = _merged(manifests) if manifests else None
    return _write(contents, output, writing, writing.format or collections[0].format, manifest)


def split(collection: Collection, shares: Sequence[float], output: Path, writing: Writing) -> list[Path]:
    """Cut a collection into parts of whole documents, ``OUTPUT-00000`` and so on, by tokens.

    Args:
        shares: size of each part, on any scale. Every split of a manifest is cut in these proportions.

    Raises:
        UserError: a share is no positive number.
    """
    if not shares or not all(_is_number(share) and share > 0 for share in shares):
        raise UserError(f"parts of sizes {list(shares)} can't be made: give parts=4, or fractions=[0.9,0.1]")
    edges = np.cumsum([0.0, *shares]) / np.sum(shares)
    wholes = {split: _whole(collection, split) for split in collection.splits}
    names = [output.with_name(f"{output.name}-{number:05d}") for number in range(len(shares))]
    written = []
    for number, name in enumerate(names):
        contents = {}
        for split_name, whole in wholes.items():
            spans = cut(whole.spans, float(edges[number]), float(edges[number + 1]))
            contents[split_name] = Content(spans, [group for span in spans for group in span.groups])
        manifest = collection.manifest
        if manifest:
            settings = {"split": manifest.settings, "part": number, "shares": list(shares)}
            counts = {key: _share(manifest.splits[key], contents[key].spans) for key in contents}
            manifest = dataclasses.replace(manifest, splits=counts, settings=settings)
        written.append(_write(contents, name, writing, writing.format or collection.format, manifest))
    return written


def convert(
    collection: Collection,
    output: Path,
    writing: Writing,
    vocabulary: Vocabulary | None = None,
    validation_fraction: float = 0.0,
) -> Path:
    """Write a collection in another format.

    Args:
        vocabulary: of the tokenizer that made shards without a manifest: the result is a folder with one.
        validation_fraction: share of tokens, at the end, that such a folder sets aside to validate: 0, or less than 1.

    Raises:
        UserError: ids are not of the vocabulary, or the fraction leaves nothing to train on.
    """
    if not _is_number(validation_fraction) or not 0 <= validation_fraction < 1:
        raise UserError(
            f"validation_fraction={validation_fraction} is no share of the tokens: give one below 1, such as 0.01, or 0"
        )
    form = writing.format or collection.format
    if collection.manifest or vocabulary is None:
        contents = {split: _whole(collection, split) for split in collection.splits}
        manifest = collection.manifest
        if manifest:
            manifest = dataclasses.replace(manifest, settings={"convert": manifest.settings, "to": form})
        return _write(contents, output, writing, form, manifest)
    contents = _held_out(collection, validation_fraction)
    return _write(contents, output, writing, form, _described(contents, output.name, vocabulary, collection.path))


def _held_out(collection: Collection, fraction: float) -> dict[str, Content]:
    """A collection without a manifest, its last documents set aside to validate."""
    whole = _whole(collection, "").spans
    edge = 1 - fraction
    contents = {}
    for split_name, (low, high) in {"train": (0.0, edge), "validation": (edge, 1.0)}.items():
        if high > low:
            spans = cut(whole, low, high)
            contents[split_name] = Content(spans, [group for span in spans for group in span.groups])
    if counted_tokens(whole) and not counted_tokens(contents["train"].spans):
        documents = sum(span.end - span.begin for span in whole)
        raise UserError(
            f"{collection.path} has {documents} document{'s' * (documents > 1)}, and validation_fraction={fraction:g} "
            "leaves none with tokens to train on: give row_length=1024, which makes documents of a .npy stream, "
            "document_start=… for a KnowLM triple, or validation_fraction=0"
        )
    return contents


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def cut(spans: Sequence[Span], low: float, high: float) -> list[Span]:
    """The documents whose ends lie in the given part, 0 to 1, of all tokens; neighbouring parts share none.

    There is always a span, though it may be empty.
    """
    total = counted_tokens(spans)
    edges = [
        round(edge * total) if edge else -1 for edge in (low, high)
    ]  # empty documents at the start are the first's
    parts, before = [], 0
    for span in spans:
        begin, end = (_document_at(span, edge - before) for edge in edges)
        if end > begin:
            parts.append(Span(span.file, begin, end))
        before += len(span.tokens)
    return parts or [Span(spans[0].file, spans[0].begin, spans[0].begin)]


def _document_at(span: Span, tokens: int) -> int:
    """First document of a span that does not end within its first so many tokens."""
    file, start = span.file, span.tokens.start

    def end(document: int) -> int:
        return file.position(file.first_segment(document + 1)) - start

    return span.begin + bisect.bisect_right(range(span.begin, span.end), tokens, key=end)


def _whole(collection: Collection, split_name: str) -> Content:
    """All documents of a split; kinds of data are kept where they are known, else they are one."""
    files = collection.splits[split_name]
    spans = [Span.whole(file) for file in files]
    groups = spans[0].groups if len(spans) == 1 else [counted_segments(spans)]
    return Content(spans, groups)


def _merged(manifests: Sequence[Manifest]) -> Manifest:
    first = manifests[0]
    for other in manifests[1:]:
        if other.tokenizer_fingerprint != first.tokenizer_fingerprint:
            raise UserError(
                f"tokenizer '{first.tokenizer_name}' ({first.vocabulary_size} tokens) made the shards of "
                f"'{first.source}' and '{other.tokenizer_name}' ({other.vocabulary_size} tokens) those of "
                f"'{other.source}': their ids mean different texts and can't be merged"
            )
    names = {name for manifest in manifests for name in manifest.splits}
    reasons = {name for manifest in manifests for name in manifest.bad_records}
    return dataclasses.replace(
        first,
        max_length=max(manifest.max_length for manifest in manifests),
        weight=sum(manifest.weight for manifest in manifests),
        splits={
            name: sum((manifest.splits.get(name, Counts()) for manifest in manifests), Counts())
            for name in sorted(names)
        },
        bad_records={
            name: sum(manifest.bad_records.get(name, 0) for manifest in manifests) for name in sorted(reasons)
        },
        empty_documents=sum(manifest.empty_documents for manifest in manifests),
        settings={"merge": [manifest.settings for manifest in manifests]},
    )


def _share(counts: Counts, spans: Sequence[Span]) -> Counts:
    """Counts of a part; its bytes of text are not known and are put at its share of the tokens."""
    tokens = counted_tokens(spans)
    text_bytes = round(counts.bytes * tokens / counts.tokens) if counts.tokens else 0
    return Counts(sum(span.end - span.begin for span in spans), counted_segments(spans), tokens, text_bytes)


def _described(contents: dict[str, Content], name: str, vocabulary: Vocabulary, path: Path) -> Manifest:
    """A manifest for shards that came without one, counted with the vocabulary that made them."""
    splits, longest = {}, 0
    for split_name, content in contents.items():
        text_bytes = 0
        for block in token_blocks(content.spans):
            if block.size and not 0 <= int(block.min()) <= int(block.max()) < vocabulary.vocab_size:
                raise UserError(
                    f"{path} holds id {int(block.max())} (lowest {int(block.min())}) and tokenizer "
                    f"'{vocabulary.name}' has {vocabulary.vocab_size}: another tokenizer made these shards"
                )
            text_bytes += int(vocabulary.byte_lengths[block].sum())
        for span in content.spans:
            lengths = span.file.lengths[span.segments.start : span.segments.stop]
            longest = max(longest, int(lengths.max(initial=0)))
        documents = sum(span.end - span.begin for span in content.spans)
        counts = Counts(documents, counted_segments(content.spans), counted_tokens(content.spans), text_bytes)
        splits[split_name] = counts
    settings = {"convert": str(path)}
    fingerprint = vocabulary.fingerprint
    return Manifest(
        name, vocabulary.name, fingerprint, vocabulary.vocab_size, longest, "", splits=splits, settings=settings
    )


def _write(contents: dict[str, Content], output: Path, writing: Writing, form: str, manifest: Manifest | None) -> Path:
    """Write each split's file; with a manifest a folder of them, else the one file."""
    if manifest is None:
        _write_file(contents[""], output, writing, form)
        return output
    if output.exists() and not (writing.overwrite and (output / FILE_NAME).is_file()):
        advice = "give another output" if writing.overwrite else "give another output, or overwrite=true"
        raise UserError(f"{output} exists{' and is no folder of shards' if writing.overwrite else ''}: {advice}")
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        sums: dict[str, FileSum] = {}
        for split_name, content in contents.items():
            sums |= _write_file(content, temporary / f"{split_name}-00000", writing, form)
        dtype = str(open_collection(temporary).files[0].dtype)
        dataclasses.replace(manifest, source=output.name, dtype=dtype, files=sums).save(temporary)
        replaced = output.with_name(f".{output.name}.old")
        if output.exists():
            shutil.rmtree(replaced, ignore_errors=True)  # left by a run that was killed here
            output.rename(replaced)
        temporary.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return output


def _write_file(content: Content, output: Path, writing: Writing, form: str) -> dict[str, FileSum]:
    if form == "knowlm":
        return write_triple(output, content.spans, content.groups, writing.overwrite, writing.advance)
    if form == "npy":
        output = output.with_name(output.name.removesuffix(".npy") + ".npy")
        return write_npy(output, content.spans, writing.overwrite, writing.advance)
    return write_shard(output, content.spans, writing.overwrite, writing.advance)
