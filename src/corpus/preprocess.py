"""The offline pipeline: every source of a corpus from raw files to a folder of token shards with a manifest.

Shards are written into a hidden folder beside the final one, which takes their place in one rename when the manifest is
complete: a run that is killed leaves nothing that opens, and the next run clears it away. A source whose shards were
made with the same settings from the same files is left as it is.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from src.corpus.parallel import run_workers
from src.corpus.readers import Document, TxtDocuments, find_files
from src.corpus.report import SourceProgress
from src.corpus.sentences import Language
from src.corpus.worker import Job, Reading, Result, check_bad_records, validation_threshold
from src.errors import UserError
from src.models.tokenizer import TextEncoder, open_encoder
from src.shards.format import token_dtype
from src.shards.manifest import Counts, Manifest
from src.shards.source import Source

logger = logging.getLogger(__name__)

PIPELINE_VERSION = 1  # part of every manifest's settings: raise it when the same input gives other shards
SCAN_BYTES = 64_000_000  # up to this much input the validation split's minimum is guaranteed by reading it first
WHOLE_HASH_BYTES = 16_000_000  # bigger inputs are recognised by size, time and their ends
END_BYTES = 1_000_000


@dataclass
class SourceSpec:
    """Where the text of one source comes from.

    path: a file, folder or glob, or several of them.
    txt_documents: what one document of a .txt file is: ``file``, ``paragraph`` or ``line``.
    weight: share in a mix that names none.
    generate: dotted name of a function that yields `Document`s; `path` is then the .jsonl file they are written to.
    """

    name: str
    path: str | list[str]
    language: Language
    text_field: str = "text"
    txt_documents: TxtDocuments = "file"
    max_documents: int | None = None
    weight: float = 1.0
    generate: str | None = None

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> "SourceSpec":
        """Build from one entry of a corpus config, naming keys that are unknown or missing."""
        allowed = {f.name for f in fields(cls)} - {"name"}
        if unknown := set(config) - allowed:
            raise UserError(
                f"source '{name}' has the unknown setting '{min(unknown)}': known are {', '.join(sorted(allowed))}"
            )
        if missing := {"path", "language"} - set(config):
            raise UserError(f"source '{name}' has no '{min(missing)}': every source needs path and language")
        return cls(name=name, **config)


@dataclass
class Settings:
    """What holds for every source of a run.

    tokenizer: folder or file that `open_encoder` opens.
    document_bos, document_eos: spelling of the tokens around a document; None means the tokenizer's BOS where it adds
        one by itself and its EOS, an empty string means none.
    validation_fraction: share of the documents that make the validation split, chosen by hash.
    min_validation_bytes: text the validation split of a source under 64 MB holds at least, up to half of it.
    """

    tokenizer: Path
    output_dir: Path
    tokenizer_name: str | None = None
    max_length: int = 1024
    document_bos: str | None = None
    document_eos: str | None = None
    validation_fraction: float = 0.05
    min_validation_bytes: int = 20_000
    max_bad_fraction: float = 0.05
    workers: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(
                f"max_length={self.max_length} leaves no room for text: give at least 2 tokens, such as 1024"
            )
        if self.workers < 1:
            raise UserError(f"workers={self.workers} cannot work: give 1 or more")
        for name in ("validation_fraction", "max_bad_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is not a fraction: give a number from 0 to below 1")


def preprocess_corpus(sources: Iterable[SourceSpec], settings: Settings) -> list[Manifest]:
    """Make or keep the shards of every source, ``<output_dir>/<source>``, and return their manifests in order."""
    encoder = open_encoder(settings.tokenizer, settings.tokenizer_name)
    return [preprocess_source(spec, settings, encoder) for spec in sources]


def preprocess_source(spec: SourceSpec, settings: Settings, encoder: TextEncoder) -> Manifest:
    """Make the shards of one source, or keep them where they are made already.

    Raises:
        UserError: input that cannot be read, or shards in the way that were made differently.
    """
    if spec.generate is not None:
        _generate(spec)
    files = tuple(find_files(spec.path))
    manifest = _blank_manifest(spec, settings, encoder, files)
    target = Path(settings.output_dir) / spec.name
    _clear_leftovers(target)
    if not settings.overwrite and (kept := _finished(target, manifest)) is not None:
        return kept
    partial = target.with_name(f".{target.name}.partial-{socket.gethostname()}-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        job = _job(spec, settings, manifest, partial, files)
        with SourceProgress(spec.name, sum(file.stat().st_size for file in files)) as progress:
            results = run_workers(job, settings.workers, progress.update)
        _fill(manifest, results, settings)
        manifest.save(partial)
        _take_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _generate(spec: SourceSpec) -> None:
    """Write a generated source, unless the same text is there already (its time then stays, too)."""
    assert spec.generate is not None
    module, _, name = spec.generate.rpartition(".")
    try:
        function: Callable[[], Iterable[Document]] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"source '{spec.name}': generate={spec.generate} is no function ({error})") from None
    if not isinstance(spec.path, str) or not spec.path.endswith(".jsonl"):
        raise UserError(f"source '{spec.name}' is generated: path must be one .jsonl file to write, not {spec.path}")
    lines = (json.dumps({"id": d.id, "text": d.text}, ensure_ascii=False) + "\n" for d in function())
    content = "".join(lines).encode("utf-8")
    path = Path(spec.path)
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _blank_manifest(spec: SourceSpec, settings: Settings, encoder: TextEncoder, files: Iterable[Path]) -> Manifest:
    """The manifest as far as it is known before the first document: equal for equal work."""
    bos, eos = _marks(settings, encoder)
    return Manifest(
        source=spec.name,
        tokenizer_name=encoder.name,
        tokenizer_fingerprint=encoder.fingerprint,
        vocabulary_size=encoder.vocab_size,
        max_length=settings.max_length,
        dtype=str(token_dtype(encoder.vocab_size)),
        weight=spec.weight,
        settings={
            "pipeline": PIPELINE_VERSION,
            "language": spec.language,
            "text_field": spec.text_field,
            "txt_documents": spec.txt_documents,
            "max_documents": spec.max_documents,
            "bos_id": bos,
            "eos_id": eos,
            "validation_fraction": settings.validation_fraction,
            "min_validation_bytes": settings.min_validation_bytes,
            "inputs": [[file.name, file.stat().st_size, _recognise(file)] for file in files],
        },
    )


def _marks(settings: Settings, encoder: TextEncoder) -> tuple[int | None, int | None]:
    """Ids put at the start and end of every document."""
    bos = encoder.bos_id if encoder.adds_bos else None
    eos = encoder.eos_id
    if settings.document_bos is not None:
        bos = encoder.token_id(settings.document_bos) if settings.document_bos else None
    if settings.document_eos is not None:
        eos = encoder.token_id(settings.document_eos) if settings.document_eos else None
    return bos, eos


def _recognise(file: Path) -> str:
    """What tells a changed input file: a hash of a small one, else the time and a hash of both ends of a big one."""
    digest = hashlib.blake2b(digest_size=16)
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE_HASH_BYTES:
            digest.update(stream.read())
            return digest.hexdigest()
        digest.update(stream.read(END_BYTES))
        stream.seek(-END_BYTES, os.SEEK_END)
        digest.update(stream.read())
    return f"{digest.hexdigest()}-{file.stat().st_mtime_ns}"


def _finished(target: Path, wanted: Manifest) -> Manifest | None:
    """The manifest of shards that are already what is wanted, or None where there are none yet.

    Raises:
        UserError: the shards were made with other settings, or are damaged.
    """
    if not target.exists():
        return None
    found = Manifest.load(target)
    for name in ("tokenizer_fingerprint", "max_length", "dtype"):
        _compare(target, name, getattr(found, name), getattr(wanted, name))
    for name in sorted(found.settings.keys() | wanted.settings.keys()):
        _compare(target, name, found.settings.get(name), wanted.settings.get(name))
    for split, counts in found.splits.items():
        if counts.segments:
            Source.open(target, split)
    if found.weight != wanted.weight:
        found.weight = wanted.weight
        found.save(target)
    logger.info("%s is made already with these settings", target)
    return found


def _compare(target: Path, name: str, found: Any, wanted: Any) -> None:
    if found == wanted:
        return
    if name == "inputs":
        what = "from other input files"
    elif name == "tokenizer_fingerprint":
        what = "with another tokenizer"
    else:
        what = f"with {name}={found}, now {name}={wanted} is asked for"
    raise UserError(f"the shards in {target} were made {what}: give overwrite=true to make them again, or output_dir=…")


def _job(spec: SourceSpec, settings: Settings, manifest: Manifest, folder: Path, files: tuple[Path, ...]) -> Job:
    reading = Reading(files, spec.text_field, spec.txt_documents, spec.max_documents)
    threshold = settings.validation_fraction
    if settings.min_validation_bytes > 0 and sum(file.stat().st_size for file in files) <= SCAN_BYTES:
        threshold = validation_threshold(reading.documents(), threshold, settings.min_validation_bytes)
    return Job(
        reading=reading,
        folder=folder,
        tokenizer=Path(settings.tokenizer),
        language=spec.language,
        max_length=settings.max_length,
        bos_id=manifest.settings["bos_id"],
        eos_id=manifest.settings["eos_id"],
        validation_below=threshold,
        max_bad_fraction=settings.max_bad_fraction,
        workers=settings.workers,
    )


def _fill(manifest: Manifest, results: list[Result], settings: Settings) -> None:
    """Put the counts of all workers into the manifest, and refuse a source with too many bad records or no text."""
    report = results[0].report
    bad: Counter[str] = Counter()
    for result in results:
        bad += result.report.bad
        manifest.empty_documents += result.empty_documents
        for split, counts in result.splits.items():
            manifest.splits[split] = manifest.splits.get(split, Counts()) + counts
    report.records = sum(result.report.records for result in results)
    report.bad = bad
    report.examples = [example for result in results for example in result.report.examples]
    check_bad_records(report, settings.max_bad_fraction)
    if manifest.total.documents == 0:
        raise UserError(f"source '{manifest.source}' holds no text in its {report.records} records: look at its path")
    for example in report.examples:
        logger.warning("source '%s' left out %s", manifest.source, example)
    manifest.bad_records = dict(bad)


def _take_place(partial: Path, target: Path) -> None:
    """Give the finished folder its name; shards that were there before are out of the way first."""
    old = target.with_name(f".{target.name}.old-{socket.gethostname()}-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(target: Path) -> None:
    """Remove what killed runs of this machine left beside the target."""
    mine = f"-{socket.gethostname()}-"
    for kind in ("partial", "old"):
        for leftover in target.parent.glob(f".{target.name}.{kind}-*"):
            _, found, process = leftover.name.rpartition(mine)
            if found and process.isdigit() and not _runs(int(process)):
                shutil.rmtree(leftover, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
