#!/usr/bin/env python
"""Extract entities, relations and events: ``python scripts/extract.py --help``."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from src.command import command
from src.errors import UserError
from src.extraction.constraints.grammar import Limits
from src.extraction.documents import Document, Fields, kind_of, read_documents
from src.extraction.output import Output, open_output
from src.extraction.readers.rejects import RejectedError, Rejects
from src.extraction.readers.rows import read_rows
from src.extraction.readers.schemas import read_schema
from src.extraction.schema import Example, Schema, Task
from src.extraction.shown import explanations, items_table, report_line, text_with_spans

if TYPE_CHECKING:
    from src.extraction.extractor import Explanation, Extractor
    from src.extraction.plan import Extraction

OPTIONS = ("split_num", "language", "max_roles", "max_new_tokens", "num_beams", "two_step", "overlap", "titles")
OPTIONS += ("mentions", "drop_missing", "permutations", "vote", "seed", "confidence")
WHOLE_NUMBERS = ("limit", "split_num", "max_roles", "max_items", "max_span_chars", "max_new_tokens", "num_beams")
WHOLE_NUMBERS += ("max_chunk_tokens", "overlap", "permutations", "seed", "batch_size", "context_length")


@command("extract")
def main(cfg: DictConfig) -> None:
    check(cfg)
    schema, task = read_schema(plain(cfg.schema.source), cfg.language, cfg.topic), Task.named(cfg.task)
    schema.elements(task)  # refused before a model is loaded
    documents = given_documents(cfg)
    output = None if cfg.output is None else open_output(cfg.output, settings(cfg, schema))
    if cfg.preview:
        show_preview(cfg, next(documents), schema, task)
        return
    with open_extractor(cfg) as extractor:
        if cfg.doctor:
            show(extractor.explain(next(documents), schema, task))
        elif output is not None:
            run(extractor, output, documents, schema, task)
        else:
            for found in extractor.extract_many(documents, schema, task):
                show_one(found, cfg.text is None)


def check(cfg: DictConfig) -> None:
    """Refuse what can't be done before anything is read."""
    given = [name for name in ("text", "input") if cfg[name] is not None]
    if len(given) != 1:
        found = "both" if given else "neither"
        raise UserError(f"give text='…' or input=FILE_OR_FOLDER: found {found}")
    if cfg.text is not None and not str(cfg.text).strip():
        raise UserError("text= is empty: give one to extract from")
    if cfg.schema.source is None:
        from src.extraction.readers.schemas import schema_names

        raise UserError(f"schema= is missing: give a file, a list of types, or one of {', '.join(schema_names())}")
    for name in WHOLE_NUMBERS:
        if not isinstance(cfg[name], int | None):
            raise UserError(f"{name}={cfg[name]} can't be: give a whole number")
    if cfg.limit is not None and cfg.limit < 1:
        raise UserError(f"limit={cfg.limit} leaves no document: give 1 or more")
    if cfg.output is None:
        return
    if cfg.doctor or cfg.preview:
        raise UserError("doctor=true and preview=true print what they find: leave output= out")
    output = Path(cfg.output).expanduser().resolve()
    if cfg.input is not None and kind_of(output) and output.is_relative_to(Path(cfg.input).expanduser().resolve()):
        raise UserError(f"output={cfg.output} lies in input={cfg.input}, whose files are read: put it elsewhere")


def plain(value: Any) -> Any:
    """A value of a config as Python's own data."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def given_documents(cfg: DictConfig) -> Iterator[Document]:
    """The text, or the documents of the input; the first of these is read at once, so that mistakes show early."""
    if cfg.text is not None:
        return iter([Document("text", str(cfg.text))])
    found = read_documents(cfg.input, Fields(cfg.text_field, cfg.id_field, cfg.title_field), cfg.main_content)
    first = next(found, None)
    if first is None:
        raise UserError(f"input={cfg.input} holds no text: give a file or folder with documents")
    return islice(_with_first(first, found), cfg.limit)


def _with_first(first: Document, others: Iterator[Document]) -> Iterator[Document]:
    yield first
    yield from others


def given_examples(cfg: DictConfig) -> tuple[Example, ...]:
    if cfg.examples is None:
        return ()
    file = Path(cfg.examples).expanduser()
    if not file.is_file():
        raise UserError(f"examples={cfg.examples} does not exist: give a .jsonl file of objects with text and answer")
    found, rejects = [], Rejects()
    for number, record in read_rows(file, rejects):
        match record:
            case {"text": str(text), "answer": dict(answer)}:
                found.append(Example(text, answer))
            case _:
                rejects.add(file, number, RejectedError("no text, or no answer that is an object"), record)
    for bad in rejects.rows:
        raise UserError(f"{file}:{bad['line']} is no example ({bad['reason']}): give {{'text', 'answer'}} a line")
    return tuple(found)


def options(cfg: DictConfig) -> dict[str, Any]:
    """The options of an extractor."""
    chosen = {name: cfg[name] for name in OPTIONS}
    limits = Limits(cfg.max_items, cfg.max_span_chars)
    return chosen | {"max_chunk_tokens": cfg.max_chunk_tokens, "limits": limits, "examples": given_examples(cfg)}


def settings(cfg: DictConfig, schema: Schema) -> dict[str, Any]:
    """All that the results depend on, for the file beside the output."""
    names = (*OPTIONS, "task", "format", "constraint", "max_items", "max_span_chars", "max_chunk_tokens")
    names += ("adapter_path", "template", "dtype", "quantization", "context_length")
    names += ("text", "text_field", "title_field", "main_content")
    chosen = {name: cfg[name] for name in names}
    model = cfg.engine.model if cfg.engine._target_.endswith("OpenAI") else cfg.model.name or cfg.model.path
    elements = {kind: repr(getattr(schema, kind)) for kind in ("entities", "relations", "events", "records")}
    chosen |= {"language": schema.language, "examples": [vars(example) for example in given_examples(cfg)]}
    engine = cfg.engine._target_.rpartition(".")[2]  # constraint=auto depends on it
    return {"model": model, "engine": engine, "schema": schema.name, **elements, **chosen}


def open_extractor(cfg: DictConfig) -> "Extractor":
    from src.extraction.extractor import Extractor  # torch comes in here, after what can be refused at once

    return Extractor.from_pretrained(
        instantiate(cfg.model),
        cfg.adapter_path,
        instantiate(cfg.engine),
        cfg.format,
        cfg.constraint,
        template=cfg.template,
        dtype=cfg.dtype,
        device=cfg.device,
        quantization=cfg.quantization,
        max_parallel=cfg.batch_size,
        context_length=cfg.context_length,
        **options(cfg),
    )


def show_preview(cfg: DictConfig, document: Document, schema: Schema, task: Task) -> None:
    from src.extraction.extractor import Extractor, format_of
    from src.extraction.prompts_only import PromptsOnly

    spec = instantiate(cfg.model)
    engine, talks = PromptsOnly.of(spec, cfg.template, cfg.context_length)
    extractor = Extractor(engine, cfg.format or format_of(spec), cfg.constraint, chat=talks, **options(cfg))
    found = extractor.preview(document, schema, task)
    show(found)
    print(f"{len(found)} prompts, {sum(each.prompt_tokens for each in found)} tokens")


def show(found: "list[Explanation]") -> None:
    for text in explanations(found):
        print(text)


def show_one(found: "Extraction", named: bool) -> None:
    """The text with its spans in place, a table of the items, and how it went."""
    console = Console(soft_wrap=True)
    if named:
        console.rule(Text(found.sample.id))
    console.print(text_with_spans(found.sample.text, found.items))
    if len(found.items):
        console.print(items_table(found.items))
    print(report_line(found))


def run(extractor: "Extractor", output: Output, documents: Iterator[Document], schema: Schema, task: Task) -> None:
    """Write what all documents hold, with a progress bar."""
    extractor.options(schema, task)  # refuses what can't be done before there is a file
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("extracting", total=None)

        def done(found: "Extraction") -> None:
            counts.update(documents=1, items=len(found.items), requests=found.requests, truncated=found.truncated)
            counts.update(tokens=found.completion_tokens, failed=found.statuses["failed"])
            seconds = time.perf_counter() - start
            rates = f"{counts['documents'] / seconds:.2f} documents/s, {counts['tokens'] / seconds:.0f} tokens/s"
            progress.update(bar, advance=1, description=rates)

        try:
            output.write(extractor.extract_many(output.missing(documents), schema, task), done)
        finally:
            seconds = max(time.perf_counter() - start, 1e-9)
            progress.stop()
            print(
                f"{counts['documents']} documents written to {output.path} ({len(output.present)} were there already): "
                f"{counts['items']} items, {counts['requests']} answers, {counts['failed']} unreadable, "
                f"{counts['truncated']} cut off; {counts['documents'] / seconds:.2f} documents/s, "
                f"{counts['tokens'] / seconds:.0f} tokens/s"
            )


if __name__ == "__main__":
    main()
