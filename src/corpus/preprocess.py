"""The offline pipeline: a corpus from raw files to folders of token shards, one a source, and a report.

What is to be done is planned first (`plan.py`), carried out as stages of tasks (`tasks.py`) by an executor
(`executors.py`), and put in its place at the end (`finish.py`). Everything lies in the hidden folder ``.work`` until it
is complete: a run that is killed leaves nothing that opens, and the next one with the same settings goes on with the
tasks that are missing. A source whose shards were made with the same settings from the same files is left as it is.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from filelock import FileLock, Timeout
from rich.console import Console

from src.corpus.dedup.buckets import FindDuplicates
from src.corpus.dedup.resolve import ResolveDuplicates
from src.corpus.executors import Executor, Local, Stage, check_queue
from src.corpus.finish import Finish, MeasureSplits, load_report
from src.corpus.plan import Plan, PlannedSource, begun, discard, merged, number_tasks
from src.corpus.readers import Part, Reading, find_files, plan_parts
from src.corpus.report import CorpusReport, PipelineProgress
from src.corpus.settings import Settings, SourceSpec
from src.corpus.steps import CleaningStep, Counted, counted
from src.corpus.tasks import (
    CleanPart,
    DropDuplicates,
    LoadCleaned,
    ReadPart,
    StoreCleaned,
    StoreSignatures,
    WriteShards,
    duplicates_folder,
)
from src.errors import UserError
from src.models.tokenizer import TextEncoder, open_encoder
from src.shards.format import token_dtype
from src.shards.manifest import Manifest
from src.shards.source import Source

logger = logging.getLogger(__name__)

PIPELINE_VERSION = 2  # part of every manifest's settings: raise it when the same input gives other shards
SCAN_BYTES = 64_000_000  # up to this much input the validation split's minimum is guaranteed
WHOLE_HASH_BYTES = 64_000_000  # a bigger source is recognised by the sizes, times and ends of its files
END_BYTES = 4096
LISTED_INPUTS = 1000
BUCKET_BYTES = 1 << 30  # input whose keys one task compares


def preprocess_corpus(
    sources: Iterable[SourceSpec],
    settings: Settings,
    executor: Executor | None = None,
    console: Console | None = None,
) -> CorpusReport | None:
    """Make or keep the shards of every source, ``<output_dir>/<source>``, and report what happened to every document.

    Returns:
        The report, which also lies in ``<output_dir>/report.json`` and ``report.html``; None where the executor only
        queues the work.

    Raises:
        UserError: input that cannot be read, shards in the way that were made differently, or another run at work.
    """
    executor = executor or Local()
    try:
        settings.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={settings.output_dir} cannot be made: {error.strerror}") from None
    with _alone(settings.output_dir):
        check_queue(settings.output_dir / ".work" / "logs")
        plan, parts = make_plan(list(sources), settings)
        stopped = begun(plan.work)
        goes_on = stopped is not None and stopped.request == plan.request
        if stopped is not None and goes_on:
            logger.info("going on with the run that was stopped in %s", plan.work)
            plan = stopped
        elif any(source.writes for source in plan.sources):
            discard(plan.work)
            plan.save(parts)
        if goes_on or any(source.writes for source in plan.sources):
            finish = Finish(plan.work, str(executor), settings.max_bad_fraction, settings.keep_work)
            stages = [*make_stages(plan), Stage("finish", [finish], 1)]
            try:
                with PipelineProgress(console or Console(file=sys.stderr)) as progress:
                    executor.run(stages, plan.work / "logs", progress.update)
            except KeyboardInterrupt:
                logger.warning("stopped; the same command goes on from here")
                raise
            if not executor.waits:
                return None
            if not settings.keep_work:
                shutil.rmtree(plan.work, ignore_errors=True)
        return load_report(plan)


@contextmanager
def _alone(output_dir: Path) -> Iterator[None]:
    """Keep a second run out of the folder while one is at work."""
    lock = FileLock(output_dir / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise UserError(f"another run is writing to {output_dir}: wait for it, or give another output_dir=…") from None


def make_plan(specs: Sequence[SourceSpec], settings: Settings) -> tuple[Plan, list[Part]]:
    """Find the input, compare it with what is there already, and cut the work into tasks, each of which reads one part.

    Raises:
        UserError: a mistake in the settings of a source, no input, or shards in the way that were made differently.
    """
    encoder = open_encoder(settings.tokenizer, settings.tokenizer_name, engine="reference")  # opens in no time
    planned: list[PlannedSource] = []
    parts: dict[str, list[Part]] = {}
    for spec in specs:
        source, parts[spec.name] = _plan_source(spec, settings, encoder, planned)
        planned.append(source)
    last = max((index for index, source in enumerate(planned) if source.writes), default=-1)
    if settings.dedup.kinds and settings.dedup.scope == "corpus":
        kept = planned[: last + 1]  # what is made already may hold the first of two duplicates
    else:
        kept = [source for source in planned if source.writes]
    described = [[source.name, source.manifest.settings] for source in planned]
    plan = Plan(
        corpus=settings.corpus,
        output_dir=settings.output_dir,
        tokenizer=Path(settings.tokenizer),
        max_length=settings.max_length,
        validation_fraction=settings.validation_fraction,
        min_validation_bytes=settings.min_validation_bytes,
        dedup=settings.dedup,
        names=[source.name for source in planned],
        request=_digest([described, encoder.fingerprint, settings.corpus, settings.max_length, settings.overwrite]),
        sources=number_tasks(kept),
        settings={"tokenizer": encoder.name, "max_length": settings.max_length, "dedup": asdict(settings.dedup)},
    )
    return plan, [part for source in plan.sources for part in parts[source.name]]


def make_stages(plan: Plan) -> list[Stage]:
    """The stages of a plan but the last, in order."""
    work = plan.work
    total = sum(source.input_bytes for source in plan.sources)
    read: list[PipelineStep] = [ReadPart(work), CleanPart(work)]
    if not plan.two_passes:
        return [Stage("read, clean, write", [*read, WriteShards(work)], plan.tasks, total)]
    if plan.dedup.kinds:
        buckets = 1 + total // BUCKET_BYTES
        found = duplicates_folder(work)
        names = [source.name for source in plan.sources for _ in range(source.parts)]
        find = FindDuplicates(found, plan.dedup, plan.tasks, buckets)
        resolve = ResolveDuplicates(found, plan.dedup, names, buckets)
        return [
            Stage("read and clean", [*read, StoreSignatures(work), StoreCleaned(work)], plan.tasks, total),
            Stage("find duplicates", [find], buckets),
            Stage("resolve duplicates", [resolve, MeasureSplits(work)], 1),
            Stage("write", [LoadCleaned(work), DropDuplicates(work), WriteShards(work)], plan.tasks),
        ]
    return [
        Stage("read and clean", [*read, StoreCleaned(work)], plan.tasks, total),
        Stage("measure", [MeasureSplits(work)], 1),
        Stage("write", [LoadCleaned(work), WriteShards(work)], plan.tasks),
    ]


def _plan_source(
    spec: SourceSpec, settings: Settings, encoder: TextEncoder, before: Sequence[PlannedSource]
) -> tuple[PlannedSource, list[Part]]:
    if spec.hub is not None:
        from src.corpus.readers.hub import download_dataset  # the hub's library takes its time

        download_dataset(spec.name, spec.hub, spec.path)
    if spec.generate is not None:
        _generate(spec)
    try:
        reading = Reading(**spec.reading)
    except TypeError as error:
        raise UserError(f"source '{spec.name}': {error}") from None
    files = [file.absolute() for file in find_files(spec.path, reading.format)]
    config = merged(settings.cleaning.get(spec.language, {}), spec.cleaning)
    steps = build_steps(config)
    manifest = _blank_manifest(spec, settings, encoder, files, reading, _depends_on(config, steps))
    if settings.dedup.kinds and settings.dedup.scope == "corpus":
        manifest.settings["after"] = [_digest(source.manifest.settings) for source in before]
    finished = not settings.overwrite and _is_finished(settings.output_dir / spec.name, manifest)
    size = sum(file.stat().st_size for file in files)
    parts = plan_parts(files, reading, settings.part_bytes)
    source = PlannedSource(
        name=spec.name,
        language=spec.language,
        manifest=manifest,
        reading=reading,
        parts=len(parts),
        first_task=0,
        input_bytes=size,
        steps=steps,
        writes=not finished,
        measures=settings.validation_fraction > 0 and settings.min_validation_bytes > 0 and size <= SCAN_BYTES,
    )
    return source, parts


def _depends_on(config: Mapping[str, Any], steps: Iterable[CleaningStep | Counted]) -> dict[str, Any]:
    """The cleaning config with what a step reads from elsewhere, such as the words of a list instead of its path."""
    described = {name: dict(settings) for name, settings in config.items() if settings is not None}
    for step in steps:
        if isinstance(step, CleaningStep):
            described[step.name] |= step.depends_on()
    return described


def build_steps(config: Mapping[str, Any]) -> list[CleaningStep | Counted]:
    """The steps of a cleaning config in its order; entries that are None are left out.

    Raises:
        UserError: a step that does not exist, or a setting it does not have.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    steps = []
    for name, settings in config.items():
        if settings is None:
            continue
        if not isinstance(settings, Mapping) or "_target_" not in settings:
            raise UserError(f"cleaning step '{name}' names no class: give it a _target_, or null to leave it out")
        try:
            steps.append(counted(name, instantiate(settings)))
        except InstantiationException as error:
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from None
            raise UserError(f"cleaning step '{name}': {cause}") from None
    return steps


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


def _blank_manifest(
    spec: SourceSpec,
    settings: Settings,
    encoder: TextEncoder,
    files: Sequence[Path],
    reading: Reading,
    cleaning: Mapping[str, Any],
) -> Manifest:
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
            "reading": _plain({key: value for key, value in asdict(reading).items() if key != "folder"}),
            "cleaning": _plain(cleaning),
            "dedup": _plain(asdict(settings.dedup)) if settings.dedup.kinds else None,
            "part_bytes": settings.part_bytes,
            "bos_id": bos,
            "eos_id": eos,
            "validation_fraction": settings.validation_fraction,
            "min_validation_bytes": settings.min_validation_bytes,
            "inputs": _recognise_all(files),
        },
    )


def _plain(value: Any) -> Any:
    """A value as JSON gives it back, so that it can be compared with what was saved."""
    return json.loads(json.dumps(value, default=str))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _marks(settings: Settings, encoder: TextEncoder) -> tuple[int | None, int | None]:
    """Ids put at the start and end of every document."""
    bos = encoder.bos_id if encoder.adds_bos else None
    eos = encoder.eos_id
    if settings.document_bos is not None:
        bos = encoder.token_id(settings.document_bos) if settings.document_bos else None
    if settings.document_eos is not None:
        eos = encoder.token_id(settings.document_eos) if settings.document_eos else None
    return bos, eos


def _recognise_all(files: Sequence[Path]) -> list[list[Any]] | str:
    """What tells changed input: name, size and mark of each file; of very many files, one digest of all that."""
    read_whole = sum(file.stat().st_size for file in files) <= WHOLE_HASH_BYTES
    known = [[file.name, file.stat().st_size, _recognise(file, read_whole)] for file in files]
    return known if len(known) <= LISTED_INPUTS else _digest(known)


def _recognise(file: Path, read_whole: bool) -> str:
    """What tells a changed input file: a hash of a small one, else the time and a hash of its last bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        if not read_whole:
            stream.seek(-min(END_BYTES, file.stat().st_size), os.SEEK_END)
        digest.update(stream.read())
    return digest.hexdigest() if read_whole else f"{digest.hexdigest()}-{file.stat().st_mtime_ns}"


def _is_finished(target: Path, wanted: Manifest) -> bool:
    """Whether the shards that are wanted are there already.

    Raises:
        UserError: the shards were made with other settings, or are damaged.
    """
    if not target.exists():
        return False
    found = Manifest.load(target)
    for name in ("tokenizer_fingerprint", "max_length", "dtype"):
        _compare(target, name, getattr(found, name), getattr(wanted, name))
    for name in wanted.settings | found.settings:
        _compare(target, name, found.settings.get(name), wanted.settings.get(name))
    for split, counts in found.splits.items():
        if counts.segments:
            Source.open(target, split)
    if found.weight != wanted.weight:
        found.weight = wanted.weight
        found.save(target)
    logger.info("%s is made already with these settings", target)
    return True


DIFFERENCES = {
    "inputs": "from other input files",
    "tokenizer_fingerprint": "with another tokenizer",
    "cleaning": "with other cleaning steps",
    "dedup": "with other settings of dedup",
    "reading": "with other settings of how the files are read",
    "after": "after other sources, of which duplicates were left out",
    "pipeline": "by an older version of the pipeline",
}


def _compare(target: Path, name: str, found: Any, wanted: Any) -> None:
    if found == wanted:
        return
    what = DIFFERENCES.get(name, f"with {name}={found}, now {name}={wanted} is asked for")
    raise UserError(f"the shards in {target} were made {what}: give overwrite=true to make them again, or output_dir=…")
