"""Annotated sets of several tasks and languages as one file to tune a model on, with what belongs beside it.

In the output folder, which is there whole or not at all:

- ``train.jsonl``: training records, ``data.train=`` of the extraction experiments; general instructions at its end
- ``validation.jsonl``: records of held-out texts, for the loss
- ``validation/NAME.jsonl``: the held-out samples of each input, for precision and recall
- ``schemas/NAME.yaml``: what was asked of each input
- ``rejects.jsonl``: rows that could not be read, with file, line and reason
- ``manifest.json``: settings, counts by input, checksums

No text of the training part is in a validation part, whichever input it comes from.
"""

import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.extraction.items import Sample
from src.extraction.readers import Rejects, read_samples
from src.extraction.readers.rows import read_rows
from src.extraction.readers.schemas import (
    read_readable,
    read_schema,
    read_topics,
    renamed,
    renamed_items,
    write_schema,
)
from src.extraction.schema import Task
from src.extraction.training.convert import Conversion, Counts, training_records
from src.extraction.training.negatives import read_hard
from src.models.atomic_folder import put_in_place, scratch_folder
from src.models.conversation import messages_from_record
from src.shards.atomic import checksum

log = logging.getLogger(__name__)

Record = dict[str, Any]

KINDS: Mapping[Any, tuple[Any, str]] = {  # of settings: what they may be, in Python and in words
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    int | None: (int | None, "a whole number or null"),
    float: (float | int, "a number"),
}


@dataclass(frozen=True)
class Source:
    """One annotated file and how it is converted.

    Args:
        task: one of the seven.
        schema: what `read_schema` takes; ``topic``: a part of an InstructIE schema, None: by each sample's category.
        name: of the data set; None: the file's.
        file_format: see `src.extraction.readers`; ``format``: of the records, see `src.extraction.formats.format`.
        validation: a file of held-out samples; None: a fraction of this one's texts.
        readable: ask for the readable names of the schema and not for the data set's labels.
        limit, validation_limit: so many samples at most, chosen by chance.
        hard: dictionary of hard negatives; ``hard_dataset``: the part of it, None: ``name``.
        repeat: how many times a sample is asked about, each time in another order and with other negatives.
        split_num, max_roles, language, negatives, ratio, shuffle, empty_share: as in `Conversion`.
    """

    path: str
    task: str
    schema: Any
    name: str | None = None
    file_format: str = "auto"
    format: str = "oneke"
    topic: str | None = None
    validation: str | None = None
    readable: bool = False
    limit: int | None = None
    validation_limit: int | None = None
    hard: str | None = None
    hard_dataset: str | None = None
    repeat: int = 1
    split_num: int | None = None
    max_roles: int | None = 12
    language: Any = None
    negatives: Any = "all"
    ratio: float = 1.0
    shuffle: bool = True
    empty_share: float = 1.0

    @classmethod
    def of(cls, given: Any, defaults: Mapping[str, Any]) -> "Source":
        """A source from a path or from its settings; ``defaults`` where they say nothing. Raises `UserError`."""
        if not isinstance(given, str | Mapping):
            raise UserError(f"input {given!r} is neither a file nor an object: give FILE or {{path: FILE, …}}")
        settings = {"path": given} if isinstance(given, str) else dict(given)
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise UserError(
                f"an input has the setting {unknown[0]}, which is not known: choose from {', '.join(known)}"
            )
        settings = {key: value for key, value in defaults.items() if key in known} | settings
        for each in fields(cls):
            allowed, expected = KINDS.get(each.type, (object, ""))
            if not isinstance(value := settings.get(each.name, each.default), allowed):
                raise UserError(f"{each.name}={value} can't be: give {expected}")
        if missing := [key for key in ("path", "task", "schema") if settings.get(key) is None]:
            raise UserError(f"input {settings.get('path', given)} has no {missing[0]}: give {missing[0]}=…")
        return cls(**settings)


@dataclass
class Part:
    """A source with what was read of it."""

    source: Source
    name: str  # unique among the parts
    conversion: Conversion
    names: Mapping[str, str]  # readable ones by label
    train: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    leaking: int = 0  # training texts that are in a validation part
    counts: Counts = field(default_factory=Counts)
    validation_counts: Counts = field(default_factory=Counts)


def prepare(
    sources: Sequence[Source],
    output: str | Path,
    validation_fraction: float = 0.02,
    general: str | None = None,
    general_share: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert all sources into one folder and return its manifest.

    Args:
        validation_fraction: of the texts of sources without a validation file, chosen by their hash.
        general: file of instruction records (alpaca or messages) that are mixed in.
        general_share: their share of the training records, in [0, 1).

    Raises:
        UserError: a setting can't be, a file is missing or of no known form, nothing is left, the folder exists.
    """
    target = Path(output).expanduser()
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists: give another output, or overwrite=true")
    for name, share in (("validation_fraction", validation_fraction), ("general_share", general_share)):
        if not 0 <= share < 1:
            raise UserError(f"{name}={share} can't be: give a number from 0 to below 1")
    if not sources:
        raise UserError("there is nothing to convert: give inputs=[FILE, …]")
    rejects = Rejects()
    parts = _read(sources, validation_fraction, seed, rejects)
    extra = _general(general) if general else []
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as work:
        total = _write_records(parts, work)
        added = _add_general(extra, general_share, total, seed, work / "train.jsonl")
        rejects.write(work / "rejects.jsonl")
        manifest = _manifest(parts, rejects, total, added, work)
        manifest["settings"] = {
            "validation_fraction": validation_fraction,
            "general": Path(general).name if general else None,
            "general_share": general_share if general else 0,
            "seed": seed,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (work / "manifest.json").write_text(text, encoding="utf-8")
        put_in_place(work, target)
    return manifest


def _read(sources: Sequence[Source], fraction: float, seed: int, rejects: Rejects) -> list[Part]:
    parts: list[Part] = []
    for source in sources:
        part = _part(source, seed, {each.name for each in parts})
        train, held_out = list(_samples(part, source.path, rejects)), []
        if source.validation:
            held_out = list(_samples(part, source.validation, rejects))
        elif fraction:
            held_out = [sample for sample in train if _chance(seed, sample.text) < fraction]
            train = [sample for sample in train if _chance(seed, sample.text) >= fraction]
        part.train = _some(train, source.limit, seed)
        part.validation = _some(held_out, source.validation_limit, seed)
        parts.append(part)
    held = {sample.text for part in parts for sample in part.validation}
    for part in parts:
        kept = [sample for sample in part.train if sample.text not in held]
        part.leaking = len(part.train) - len(kept) if part.source.validation else 0
        part.train = kept
    return parts


def _part(source: Source, seed: int, taken: set[str]) -> Part:
    task = Task.named(source.task)
    topics = {}
    if isinstance(source.schema, (str, Path)) and source.topic is None:
        topics = read_topics(source.schema, source.language)
    first = next(iter(topics)) if topics else source.topic
    schema = read_schema(source.schema, source.language, first)
    names = read_readable(source.schema, source.language) if source.readable else {}
    hard = None
    name = str(source.name or Path(source.path).stem)
    if source.hard:
        hard = read_hard(source.hard, task, source.hard_dataset or name)
    conversion = Conversion(
        task,
        renamed(schema, names),
        source.format,
        source.split_num,
        source.max_roles,
        source.language,
        source.negatives,
        source.ratio,
        hard,
        source.shuffle,
        source.empty_share,
        seed,
        topics,
    )
    unique = base = f"{name.replace('/', '-')}_{task}"  # names files
    number = 2
    while unique in taken:
        unique, number = f"{base}_{number}", number + 1
    return Part(source, unique, conversion, names)


def _samples(part: Part, path: str, rejects: Rejects) -> Iterator[Sample]:
    found = read_samples(path, part.source.file_format, part.source.name, rejects)
    if not part.names:
        return found
    return (replace(sample, items=renamed_items(sample.items, part.names)) for sample in found)


def _some(samples: list[Sample], limit: int | None, seed: int) -> list[Sample]:
    if limit is None or len(samples) <= limit:
        return samples
    ranked = sorted(range(len(samples)), key=lambda index: _chance(f"{seed}:limit", samples[index].id))
    return [samples[index] for index in sorted(ranked[:limit])]


def _chance(seed: Any, text: str) -> float:
    """A number in [0, 1) that depends on the seed and the text alone."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _write_records(parts: list[Part], work: Path) -> int:
    """Write the records, held-out samples and schemas; the number of training records."""
    (work / "validation").mkdir()
    (work / "schemas").mkdir()
    train, validation = work / "train.jsonl", work / "validation.jsonl"
    with train.open("w", encoding="utf-8") as records, validation.open("w", encoding="utf-8") as held_out:
        for part in parts:
            turns = [replace(part.conversion, seed=part.conversion.seed + turn) for turn in range(part.source.repeat)]
            again = Counts()  # what repeats add: records, but no texts
            for sample in _watched(part.train, part.name):
                for counts, conversion in zip(chain([part.counts], repeat(again)), turns, strict=False):
                    records.writelines(_line(record) for record in training_records(sample, conversion, counts))
            part.counts.add_records_of(again)
            _refuse_other_labels(part)
            for sample in part.validation:
                for record in training_records(sample, part.conversion, part.validation_counts):
                    held_out.write(_line(record))
            if part.validation:
                lines = "".join(_line(sample.as_dict()) for sample in part.validation)
                (work / "validation" / f"{part.name}.jsonl").write_text(lines, encoding="utf-8")
            for topic, schema in (part.conversion.by_topic or {"": part.conversion.schema}).items():
                suffix = f"_{topic.replace('/', '-')}" if topic else ""
                write_schema(schema, work / "schemas" / f"{part.name}{suffix}.yaml")
    total = sum(part.counts.records for part in parts)
    if not total:
        raise UserError("no training record is left: look at the inputs, their task and schema, and the limits")
    return total


def _refuse_other_labels(part: Part) -> None:
    """Raise `UserError` where no label of a set is in its schema: every answer would be that there is nothing."""
    counts = part.counts
    if counts.records == counts.empty_records and counts.outside_schema:
        found, asked = (", ".join(list(names)[:5]) for names in (counts.outside_schema, counts.elements))
        raise UserError(
            f"nothing that {part.name} holds ({found}, …) is in its schema ({asked}, …): give its own schema="
        )


def _watched(samples: list[Sample], name: str) -> Iterator[Sample]:
    """The samples with a progress bar that says how many a second."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]:.0f} texts/s")
    shown = TextColumn("{task.description}", markup=False)
    with Progress(shown, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()) as progress:
        task = progress.add_task(name, total=len(samples), rate=0.0)
        start = time.perf_counter()
        for number, sample in enumerate(samples, 1):
            yield sample
            if number % 100 == 0 or number == len(samples):
                progress.update(task, completed=number, rate=number / (time.perf_counter() - start))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _general(path: str) -> list[Record]:
    """The instruction records of a file. Raises `UserError` for one that is none, with its line."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {file}: give general=FILE.json or FILE.jsonl of instructions")
    rejects = Rejects()
    records = []
    for number, record in read_rows(file, rejects):
        try:
            messages_from_record(record)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        records.append(record)
    for bad in rejects.rows:
        raise UserError(f"{path}, line {bad['line']} is {bad['reason']}: mend or remove it")
    return records


def _add_general(records: list[Record], share: float, total: int, seed: int, path: Path) -> int:
    """Add general records until they are a share of all, or all of them with a warning; how many were added."""
    if not records or not share:
        return 0
    wanted = round(total * share / (1 - share))
    if wanted > len(records):
        found = len(records) / (len(records) + total)
        log.warning("general_share=%.2f wants %d records, found %d: they make %.2f", share, wanted, len(records), found)
    chosen = random.Random(f"{seed}:general").sample(records, min(wanted, len(records)))
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(_line(record) for record in chosen)
    return len(chosen)


def _manifest(parts: list[Part], rejects: Rejects, total: int, added: int, work: Path) -> dict[str, Any]:
    files = sorted(path for path in work.rglob("*.jsonl") if path.is_file())
    return {
        "version": 1,
        "training_records": total + added,
        "extraction_records": total,
        "general_records": added,
        "validation_records": sum(part.validation_counts.records for part in parts),
        "rejected_rows": dict(sorted(rejects.counts.items())),
        "inputs": {part.name: _described(part) for part in parts},
        "files": {str(path.relative_to(work)): vars(checksum(path)) for path in files},
    }


def _described(part: Part) -> dict[str, Any]:
    settings = {each.name: getattr(part.source, each.name) for each in fields(part.source)}
    settings |= {"path": Path(part.source.path).name, "schema": part.conversion.schema.name or "given"}
    if part.source.validation:
        settings["validation"] = Path(part.source.validation).name
    return {
        "settings": settings,
        "train": part.counts.as_dict(),
        "validation": part.validation_counts.as_dict(),
        "training_texts_in_validation": part.leaking,
    }
