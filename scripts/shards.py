#!/usr/bin/env python
"""Look into token shards, check, merge, split and convert them; see configs/shards.yaml."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from src.command import command
from src.errors import UserError
from src.shards.collection import Collection, Reading, open_collection
from src.shards.convert import Writing, convert, merge, split
from src.shards.spelling import text_of
from src.shards.summary import frequent_table, length_table, overview_table, sample, summarise
from src.shards.token_file import Advance
from src.shards.verify import verify

ACTIONS = ("inspect", "verify", "merge", "split", "convert")
LONG_RUN_TOKENS = 50_000_000  # shorter work shows no progress


@command("shards")
def main(cfg: DictConfig) -> None:
    if cfg.action not in ACTIONS:
        raise UserError(f"action={cfg.action} is none of: {', '.join(ACTIONS)}")
    paths = [cfg.path] if isinstance(cfg.path, str) else list(cfg.path or ())
    if not paths:
        raise UserError(f"give a path: python scripts/shards.py {cfg.action} data/shards/demo/zh")
    collections = [open_collection(path, Reading(cfg.row_length, cfg.document_start)) for path in paths]
    if cfg.action != "merge" and len(collections) > 1:
        raise UserError(f"{cfg.action} takes one path, found {len(collections)}: {', '.join(map(str, paths))}")
    if cfg.action == "inspect":
        inspect(cfg, collections[0])
    elif cfg.action == "verify":
        check(cfg, collections[0])
    else:
        write(cfg, collections)


def inspect(cfg: DictConfig, collection: Collection) -> None:
    """Print what lies in one split, or in a shard, and one segment of it."""
    vocabulary = load_vocabulary(cfg)
    if vocabulary and collection.manifest:
        collection.manifest.check_tokenizer(vocabulary)
    with progress_bar("reading", [collection]) as advance:
        summary = summarise(collection, cfg.split, advance)
    console = Console()
    console.print(overview_table(collection, cfg.split, summary, vocabulary))
    console.print(length_table(summary))
    console.print(frequent_table(summary, vocabulary))
    if cfg.sample is not None:
        ids = sample(collection, cfg.split, cfg.sample).tolist()
        print(f"segment {cfg.sample}, {len(ids)} tokens: {' '.join(map(str, ids[:16]))}{' …' * (len(ids) > 16)}\n")
        print(text_of(ids, vocabulary) if vocabulary else "give tokenizer=… or model=… to see it as text")


def check(cfg: DictConfig, collection: Collection) -> None:
    """Print a line for each check.

    Raises:
        UserError: one found a problem.
    """
    vocabulary = load_vocabulary(cfg)
    size = cfg.vocabulary_size or (vocabulary.vocab_size if vocabulary else None)
    with progress_bar("checking", [collection]) as advance:
        checks = list(verify(collection, size, advance))
    table = Table("file", "check", "", box=None)
    for one in checks:
        table.add_row(one.where, one.what, f"[red]{one.problem}" if one.problem else "[green]ok")
    Console().print(table)
    if collection.manifest and not collection.manifest.files:
        print("the manifest holds no checksums: the shards were made before they were recorded")
    wrong = [one for one in checks if one.problem]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(checks)} checks failed: {wrong[0].where}: {wrong[0].problem}")


def write(cfg: DictConfig, collections: list[Collection]) -> None:
    """Merge, split or convert."""
    if not cfg.output:
        raise UserError(f"give output=… for what {cfg.action} writes")
    output = Path(cfg.output).expanduser()
    with progress_bar(cfg.action, collections) as advance:
        writing = Writing(cfg.to, cfg.overwrite, advance)
        if cfg.action == "merge":
            written = [merge(collections, output, writing)]
        elif cfg.action == "split":
            written = split(collections[0], shares_of(cfg), output, writing)
        else:
            written = [convert(collections[0], output, writing, load_vocabulary(cfg), cfg.validation_fraction)]
    for path in written:
        result = open_collection(path)
        documents = sum(file.documents for file in result.files)
        segments, tokens = (sum(sizes) for sizes in zip(*((len(f), f.tokens.size) for f in result.files), strict=True))
        print(f"{path}: {documents:,} documents, {segments:,} segments, {tokens:,} tokens ({result.format})")


def shares_of(cfg: DictConfig) -> list[float]:
    """The sizes of the parts that ``split`` makes."""
    if (cfg.parts is None) == (cfg.fractions is None):
        raise UserError("split needs parts=4 or fractions=[0.9,0.1], one of the two")
    if cfg.fractions is not None:
        if not OmegaConf.is_list(cfg.fractions):
            raise UserError(f"fractions={cfg.fractions} is no list: give one of the parts' sizes, such as [0.9,0.1]")
        return list(cfg.fractions)
    if not isinstance(cfg.parts, int) or isinstance(cfg.parts, bool) or cfg.parts < 1:
        raise UserError(f"parts={cfg.parts} is no number of parts: give a whole number of at least 1")
    return [1.0] * cfg.parts


def load_vocabulary(cfg: DictConfig):  # type: ignore[no-untyped-def]
    """The tokenizer that is asked for, or None; it encodes nothing here, so its engine need not be fast."""
    from src.models.tokenizer import open_encoder

    if cfg.tokenizer:
        return open_encoder(cfg.tokenizer, engine="reference")
    if cfg.get("model"):
        from src.models.download import resolve  # torch and transformers are only needed to fetch a model

        model = instantiate(cfg.model)
        return open_encoder(resolve(model), model.name, engine="reference")
    return None


@contextmanager
def progress_bar(what: str, collections: list[Collection]) -> Iterator[Advance]:
    """A bar over all tokens, where there are enough of them to wait for."""
    total = sum(file.tokens.size for collection in collections for file in collection.files)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]:,.0f} M tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=total < LONG_RUN_TOKENS, transient=True) as progress:
        task = progress.add_task(what, total=total, rate=0.0)

        def advance(tokens: int) -> None:
            elapsed = progress.tasks[0].elapsed or 1e-9
            progress.update(task, advance=tokens, rate=progress.tasks[0].completed / elapsed / 1e6)

        yield advance


def with_names(arguments: list[str]) -> list[str]:
    """``inspect A B key=value`` as ``action=inspect path=['A','B'] key=value``."""
    bare = [argument for argument in arguments if "=" not in argument and not argument.startswith(("-", "~"))]
    if not bare:
        return arguments
    quoted = ["'{}'".format(path.replace("\\", "\\\\").replace("'", "\\'")) for path in bare[1:]]
    named = [f"action={bare[0]}", *([f"path=[{','.join(quoted)}]"] if quoted else [])]
    return named + [argument for argument in arguments if argument not in bare]


if __name__ == "__main__":
    sys.argv[1:] = with_names(sys.argv[1:])
    main()
