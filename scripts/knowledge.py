#!/usr/bin/env python
"""Keep facts in a store, look them up, ask in SPARQL, merge and export them; see configs/knowledge.yaml."""

import itertools
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from src.command import command
from src.errors import UserError
from src.knowledge.exports import write_facts
from src.knowledge.facts import Fact
from src.knowledge.iris import PREFIXES
from src.knowledge.names import NameRules
from src.knowledge.readers import read_triples
from src.knowledge.store import KnowledgeStore
from src.knowledge.triples import Provenance, Triple


@command("knowledge")
def main(cfg: DictConfig) -> None:
    if cfg.action not in ACTIONS:
        raise UserError(f"action={cfg.action} is none of: {', '.join(ACTIONS)}")
    if cfg.limit is not None and (not isinstance(cfg.limit, int) or cfg.limit < 1):
        raise UserError(f"limit={cfg.limit} is no number of rows: give 1 or more, or null for all")
    act, least, most = ACTIONS[cfg.action]
    names = [str(name) for name in cfg.names]
    if not least <= len(names) <= most:
        raise UserError(f"{cfg.action} takes {_how_many(least, most)} after it and found {len(names)}: see --help")
    try:
        with KnowledgeStore(cfg.store, must_exist=cfg.action != "add") as store:
            act(cfg, store, names)
    except sqlite3.DatabaseError as error:
        sentence = "look whether another program writes to it, the disk is full, or the file is damaged"
        raise UserError(f"{cfg.store} can't be read or written ({error}): {sentence}") from error


def add(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Add the triples of files."""
    for name in names:
        with progress(f"adding {name}") as count:
            new = store.add(count(with_source(read_triples(name, extracted), cfg.source)))
        print(f"{name}: {new.facts:,} new facts, {new.mentions:,} new mentions")
    stats(cfg, store, [])


def extracted(record: Mapping[str, Any]) -> Iterator[Triple]:
    """All that a record of extraction holds: relations, entities with their document, events with their roles."""
    from src.extraction.items import Sample, items_from_record  # half a second, which looking things up does not need
    from src.extraction.output import triples_of
    from src.extraction.plan import Extraction
    from src.extraction.schema import Task

    items = items_from_record(record)
    sample = Sample(str(record.get("id") or ""), str(record.get("text") or ""), items)
    if not sample.id and items.entities + items.events:
        raise UserError("the record has entities or events and no id of its document: give it one")
    found = Extraction(sample, Task.named(str(record.get("task") or Task.NER)))  # the triples are the same for any task
    return triples_of(found, str(record.get("source") or ""))


def with_source(triples: Iterable[Triple], source: str | None) -> Iterator[Triple]:
    """Triples with a source, where they have none of their own."""
    for triple in triples:
        where = triple.provenance or Provenance()
        yield triple if where.source or not source else replace(triple, provenance=replace(where, source=source))


def about(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Print the entities of a name with their facts."""
    found = store.about(names[0])
    if not found:
        like = ", ".join(entity.name for entity in store.search(names[0], 5))
        raise UserError(f"{cfg.store} knows no '{names[0]}': {f'did you mean {like}?' if like else 'look with search'}")
    for each in found:
        if cfg.json:
            facts = [fact.as_dict() for fact in (*each.outgoing, *each.incoming)]
            print(json.dumps(each.entity.as_dict() | {"facts": facts}, ensure_ascii=False))
            continue
        entity = each.entity
        aliases = f", also {', '.join(entity.aliases)}" if entity.aliases else ""
        print(f"{entity.name}{f' ({entity.type})' if entity.type else ''}{aliases}")
        show_facts(cfg, [*each.outgoing, *each.incoming])


def search(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Print entities that have a name with a text in it."""
    rows = [entity.as_dict() for entity in store.search(names[0], cfg.limit or -1)]
    show(cfg, rows, ("name", "type", "aliases", "outgoing", "incoming"))


def match(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Print facts by their parts."""
    parts = (None if part is None else str(part) for part in (cfg.head, cfg.relation, cfg.tail))
    show_facts(cfg, store.match(*parts))


def query(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Print the answer to a SPARQL query."""
    is_file = len(names[0]) < 1000 and "\n" not in names[0] and Path(names[0]).is_file()
    result = store.query(Path(names[0]).read_text(encoding="utf-8") if is_file else names[0])
    try:
        show_result(cfg, result)
    except re.error as error:  # only now are the rows looked for
        raise UserError(f"the query's regular expression can't be read: {error}") from error


def show_result(cfg: DictConfig, result: Any) -> None:
    """Print an ``rdflib.query.Result``."""
    if result.type == "ASK":
        print("yes" if result.askAnswer else "no")
    elif result.type == "SELECT":
        columns = tuple(str(variable) for variable in result.vars or ())
        show(cfg, (_readable(row.asdict()) for row in result), columns)
    else:
        print(result.serialize(format="nt").decode("utf-8"), end="")


def merge(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Merge entities of one name, or those that are named."""
    if len(names) == 1:
        raise UserError(f"merge takes no name, or two and more that are one entity's, and found '{names[0]}' alone")
    if names:
        done = store.merge(names[0], names[1:])
    else:
        done = store.merge_duplicates(NameRules(cfg.legal_forms, cfg.simplified))
    print(f"names that became another entity's: {done.names:,}, of {done.entities:,} entities; undo takes that back")
    if done.ambiguous:
        some = ", ".join(done.ambiguous[:10])
        print(f"{len(done.ambiguous):,} names have entities of several types, which stay apart: {some}")


def undo(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Undo the last merge."""
    print(f"names that are an entity of their own again: {store.undo_merge():,}")


def remove(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Take out what one document says."""
    if not (count := store.remove(names[0])):
        raise UserError(f"{cfg.store} has nothing from a document '{names[0]}': ask for k:document with query")
    print(f"{count:,} mentions removed")


def export(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Write all facts to a file."""
    with progress(f"writing {names[0]}") as count:
        written = write_facts(count(store.facts()), names[0])
    print(f"{names[0]}: {written:,} facts")


def stats(cfg: DictConfig, store: KnowledgeStore, names: list[str]) -> None:
    """Print how much there is of what."""
    counts = store.counts()
    if cfg.json:
        print(json.dumps(counts | {"by_relation": store.relations()}, ensure_ascii=False))
        return
    print(f"{cfg.store}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    if cfg.action == "stats":
        rows = ({"relation": relation, "facts": count} for relation, count in store.relations().items())
        show(cfg, rows, ("relation", "facts"))


Action = Callable[[DictConfig, KnowledgeStore, list[str]], None]
MANY = 1_000_000
ACTIONS: dict[str, tuple[Action, int, int]] = {
    "add": (add, 1, MANY),
    "about": (about, 1, 1),
    "search": (search, 1, 1),
    "match": (match, 0, 0),
    "query": (query, 1, 1),
    "merge": (merge, 0, MANY),
    "undo": (undo, 0, 0),
    "remove": (remove, 1, 1),
    "export": (export, 1, 1),
    "stats": (stats, 0, 0),
}


def show_facts(cfg: DictConfig, facts: Iterable[Fact]) -> None:
    """A table of facts with the documents that state them."""
    rows = (fact.as_dict() for fact in facts) if cfg.json else map(_row, facts)
    show(cfg, rows, ("head", "relation", "tail", "score", "documents"))


def show(cfg: DictConfig, rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """JSON lines, or a table of some columns."""
    some = list(itertools.islice(rows, cfg.limit + 1 if cfg.limit else None))
    kept = some[: cfg.limit] if cfg.limit else some
    if cfg.json:
        for row in kept:
            print(json.dumps(row, ensure_ascii=False))
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in kept:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    Console().print(table)
    if len(some) > len(kept):
        print(f"the first {cfg.limit}: limit=null shows all")


def _row(fact: Fact) -> dict[str, Any]:
    scores = [mention.score for mention in fact.mentions if mention.score is not None]
    return fact.as_dict() | {"score": f"{max(scores):.2f}" if scores else ""}


def _cell(value: Any) -> str:
    """For people: IRIs of ours with the names as they are, behind their prefix."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    text = "" if value is None else str(value)
    prefix = next((prefix for prefix, full in PREFIXES.items() if text.startswith(full)), None)
    return text if prefix is None else f"{prefix}:{unquote(text.removeprefix(PREFIXES[prefix]))}"


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Terms as JSON: IRIs as they are, literals as numbers or text."""
    found = {}
    for key, term in row.items():
        value = term.toPython()
        found[key] = value if isinstance(value, (bool, int, float)) else str(term)
    return found


def _how_many(least: int, most: int) -> str:
    if most == 0:
        return "no word"
    return "one word" if least == most else "at least one word"


class progress:
    """A count and a rate on the terminal while something long goes on."""

    def __init__(self, what: str):
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(what, total=None, done="")

    def __enter__(self) -> Callable[[Iterable[Any]], Iterator[Any]]:
        self._bar.start()
        return self._counted

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(items, 1):
            if number % 1000 == 0:
                rate = number / (self._bar.tasks[0].elapsed or 1e-9)
                self._bar.update(self._task, done=f"{number:,} ({rate:,.0f}/s)")
            yield item


def with_names(arguments: list[str]) -> list[str]:
    """``about 北京 key=value`` as ``action=about names=['北京'] key=value``."""
    setting = re.compile(r"[+~]{0,2}[a-z_.]+=|-")
    bare = [argument for argument in arguments if not setting.match(argument)]
    if not bare:
        return arguments
    named = [f"action={bare[0]}", *([f"names=[{','.join(map(_quoted, bare[1:]))}]"] if bare[1:] else [])]
    return named + [argument for argument in arguments if setting.match(argument)]


def _quoted(word: str) -> str:
    """A word as Hydra and OmegaConf read it back: a backslash is itself, except before a quote or ``${``."""
    word = re.sub(r"(\\*)\$\{", r"\1\1\\${", word)
    return "'{}'".format(re.sub(r"(\\*)('|\Z)", lambda f: f[1] * 2 + ("\\'" if f[2] else ""), word))


if __name__ == "__main__":
    sys.argv[1:] = with_names(sys.argv[1:])
    main()
