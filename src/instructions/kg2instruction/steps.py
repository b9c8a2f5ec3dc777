"""The steps from pages to records, one task a part of the pages.

ReadPages → ChoosePages → ReadWikitext → FindMentions → CutPassages → Relate → LimitToTopic → (AddFoundTriples) →
(FilterByEntailment) → WriteRecords. What is found so far travels in the document's metadata under ``unit``. Each
step counts what it drops and why; the counts end up in the report.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from src.corpus.progress import Pace
from src.corpus.tasks import split_position
from src.instructions.kg2instruction.completion import completed
from src.instructions.kg2instruction.entailment import EntailmentFilter
from src.instructions.kg2instruction.facts import Fact, PageUnit, TextUnit
from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.limit import VALUE_TYPES, Kinds, SchemaLimit
from src.instructions.kg2instruction.mentions import Mention, MentionFinder
from src.instructions.kg2instruction.passages import Passage, passages
from src.instructions.kg2instruction.relate import Relater
from src.instructions.kg2instruction.vocabulary import load_vocabulary
from src.instructions.kg2instruction.wikipedia import Redirects, Site
from src.instructions.kg2instruction.wikitext import plain_text
from src.instructions.kg2instruction.work import RowWriter, Work, read_rows

UNIT = "unit"


class RecordStep(PipelineStep):
    """A step that takes one document at a time: a subclass sets `name` and writes `apply`. `begin` runs in a worker."""

    type = "kg2instruction"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.counts: Counter[str] = Counter()
        self.vocabulary = load_vocabulary()

    def begin(self) -> None:
        """Open what the step needs; indexes and models can't be sent to workers."""

    def apply(self, document: Document) -> Iterator[Document]:
        """What becomes of a document: itself, where a subclass does not say otherwise."""
        yield document

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.begin()
        for document in data:
            yield from self.apply(document)
        self.finish()
        self.work.write_counts(self.name, rank, self.counts)

    def finish(self) -> None:
        """Take over the counts of what the step uses."""


class ReadPages(PipelineStep):
    """Reads the pages of a part."""

    type, name = "kg2instruction", "read"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        pace = Pace()
        pages = size = 0
        began = time.process_time()
        for identity, title, wikitext in read_rows(self.work.pages(rank)):
            yield Document(wikitext, str(identity), metadata={"title": title})
            pages += 1
            size += len(wikitext)
            pace.advance(0, pages, size)
        pace.advance(0, pages, size, last=True)
        counts = {"pages": pages, "cpu_seconds": round(time.process_time() - began, 3)}
        self.work.write_counts(self.name, rank, counts)


class ChoosePages(RecordStep):
    """Drops the pages that Wikidata has no item for, or one of no topic, before anything is done with them."""

    name = "choose"

    def begin(self) -> None:
        index = KnowledgeIndex(self.work.index, self.work.language)
        self.finder = MentionFinder(index, Redirects(self.work.redirects), "none")
        self.kinds = Kinds(index, self.vocabulary)

    def apply(self, document: Document) -> Iterator[Document]:
        item = self.finder.item_of(document.metadata["title"])
        if item is None:
            self.counts["page_without_item"] += 1
        elif self.kinds.kind(item).topic is None:
            self.counts["page_without_topic"] += 1
        else:
            self.counts["pages"] += 1
            document.metadata["item"] = item
            yield document


class ReadWikitext(RecordStep):
    """Turns wikitext into text with links."""

    name = "wikitext"

    def begin(self) -> None:
        found = json.loads(self.work.site(0).read_text(encoding="utf-8"))
        self.site = Site(found["name"], frozenset(found["namespaces"]), frozenset(found["hidden"]))

    def apply(self, document: Document) -> Iterator[Document]:
        linked = plain_text(document.text, self.work.language, self.site)
        document.text = linked.text
        document.metadata["linked"] = linked
        self.counts["characters"] += len(linked.text)
        yield document


class FindMentions(RecordStep):
    """Finds the items that a page names."""

    name = "mentions"

    def begin(self) -> None:
        settings = self.work.settings
        index = KnowledgeIndex(self.work.index, self.work.language)
        ner = settings.ner() if settings.ner is not None else None
        self.finder = MentionFinder(index, Redirects(self.work.redirects), settings.dictionary, ner)

    def apply(self, document: Document) -> Iterator[Document]:
        title, item, linked = (document.metadata.pop(key) for key in ("title", "item", "linked"))
        mentions = self.finder.find(item, linked)
        self.counts.update(f"by_{mention.source}" for mention in mentions)
        document.metadata[UNIT] = PageUnit(title, linked, item, mentions)
        yield document


class CutPassages(RecordStep):
    """Cuts pages into passages, each a document of its own; those that name nothing are dropped."""

    name = "passages"

    def apply(self, document: Document) -> Iterator[Document]:
        page: PageUnit = document.metadata[UNIT]
        text = page.linked.text
        for number, found in enumerate(passages(text, self.work.language, self.work.settings.limits)):
            if not isinstance(found, Passage):
                self.counts[found] += 1
                continue
            inside = [
                Mention(m.start - found.start, m.end - found.start, m.item, m.source)
                for m in page.mentions
                if found.start <= m.start and m.end <= found.end
            ]
            if not inside:
                self.counts["no_mention"] += 1
                continue
            self.counts["passages"] += 1
            unit = TextUnit(page.title, page.item, text[found.start : found.end], found.sentences, inside)
            yield Document(unit.text, f"{document.id}-{number}", metadata={UNIT: unit})


class Relate(RecordStep):
    """Looks up what Wikidata knows about the items of a passage."""

    name = "relate"

    def begin(self) -> None:
        index = KnowledgeIndex(self.work.index, self.work.language)
        self.relater = Relater(index, self.vocabulary, self.work.settings.relating)

    def apply(self, document: Document) -> Iterator[Document]:
        unit: TextUnit = document.metadata[UNIT]
        unit.facts = self.relater.facts(unit)
        if self.work.settings.unrelated_pairs:
            unit.unrelated = self.relater.unrelated(unit)
        self.counts["facts"] += len(unit.facts)
        self.counts.update(f"facts_{fact.source}_{fact.kind}" for fact in unit.facts)
        yield document


class LimitToTopic(RecordStep):
    """Gives the facts the relations of the page's topic; the others are dropped."""

    name = "topic"

    def begin(self) -> None:
        self.kinds = Kinds(KnowledgeIndex(self.work.index, self.work.language), self.vocabulary)
        self.limit = SchemaLimit(self.kinds, self.vocabulary)

    def apply(self, document: Document) -> Iterator[Document]:
        unit: TextUnit = document.metadata[UNIT]
        unit.topic = self.kinds.kind(unit.page_item).topic
        assert unit.topic is not None  # ChoosePages keeps only pages with one
        unit.facts = self.limit.limit(unit.facts, unit.topic)
        self.counts["facts"] += len(unit.facts)
        yield document

    def finish(self) -> None:
        self.counts.update(self.limit.dropped)


class AddFoundTriples(RecordStep):
    """Adds the triples that a model finds."""

    name = "completion"

    def begin(self) -> None:
        assert self.work.settings.completion is not None
        self.complete = self.work.settings.completion()

    def apply(self, document: Document) -> Iterator[Document]:
        unit: TextUnit = document.metadata[UNIT]
        assert unit.topic is not None
        unit.facts = completed(unit, self.vocabulary.rules[unit.topic], self.work.language, self.complete)
        self.counts["added"] += sum(fact.source == "llm" for fact in unit.facts)
        yield document


class FilterByEntailment(RecordStep):
    """Drops the facts that the passage does not entail."""

    name = "entailment"

    def begin(self) -> None:
        assert self.work.settings.entailment is not None
        self.filter = EntailmentFilter(**self.work.settings.entailment)

    def apply(self, document: Document) -> Iterator[Document]:
        unit: TextUnit = document.metadata[UNIT]
        kept = self.filter.keep(unit.text, unit.facts, self.work.language)
        self.counts["not_entailed"] += len(unit.facts) - len(kept)
        self.counts["entailed"] += len(kept)
        unit.facts = kept
        yield document


class WriteRecords(RecordStep):
    """Writes the records of a part, ``[split, record]`` a row."""

    name = "records"

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:  # type: ignore[override]
        kinds = Kinds(KnowledgeIndex(self.work.index, self.work.language), self.vocabulary)
        self.type_of = lru_cache(maxsize=1 << 16)(lambda item: self._type_name(kinds.kind(item).type))
        writer = RowWriter(self.work.records(rank))
        done = False
        try:
            for document in data:
                if (reason := self._unwanted(document.metadata[UNIT])) is not None:
                    self.counts[reason] += 1
                    continue
                unit: TextUnit = document.metadata[UNIT]
                writer.write([self._split(unit.title), self.record(unit)])
                self.counts["records"] += 1
                self.counts["triples"] += len(unit.facts)
            done = True
        finally:
            writer.close(keep=done)
        self.work.write_counts(self.name, rank, self.counts)

    def record(self, unit: TextUnit) -> dict[str, Any]:
        """A record of InstructIE, with the places of the entities and where each triple comes from."""
        language = self.work.language
        assert unit.topic is not None
        record = {
            "id": hashlib.sha256(unit.text.encode()).hexdigest(),
            "cate": self.vocabulary.topics[unit.topic][language],
            "title": unit.title,
            "text": unit.text,
            "entity": self._entities(unit),
            "relation": [fact.record(unit.text, self.vocabulary, language) for fact in unit.facts],
        }
        if unit.unrelated:
            record["no_relation"] = [self._pair(fact, unit.text) for fact in self._sampled(unit)]
        return record

    def _unwanted(self, unit: TextUnit) -> str | None:
        """Why a passage makes no record."""
        settings = self.work.settings
        if len(unit.facts) > settings.max_triples:
            return "too_many_triples"
        if len(unit.facts) >= settings.min_triples:
            return None
        if not unit.facts and len({mention.item for mention in unit.mentions}) >= 2:
            return None if split_position(unit.text) < settings.empty_texts else "no_triples"
        return "too_few_triples" if unit.facts else "no_triples"

    def _split(self, title: str) -> str:
        settings = self.work.settings
        place = split_position(f"page:{title}")
        if place < settings.test_fraction:
            return "test"
        return "validation" if place < settings.test_fraction + settings.validation_fraction else "train"

    def _entities(self, unit: TextUnit) -> list[dict[str, Any]]:
        """The mentions and the values of the triples, in order."""
        found = {(m.start, m.end): (self.type_of(m.item), f"Q{m.item}") for m in unit.mentions}
        for fact in unit.facts:
            if fact.kind in VALUE_TYPES:
                found.setdefault(fact.tail, (self._type_name(VALUE_TYPES[fact.kind]), ""))
        return [
            {"entity": unit.text[start:end], "entity_type": type, "start": start, "end": end}
            | ({"item": item} if item else {})
            for (start, end), (type, item) in sorted(found.items())
        ]

    def _sampled(self, unit: TextUnit) -> list[Fact]:
        """As many pairs without a relation as are wanted, chosen by hash."""
        ranked = sorted(unit.unrelated, key=lambda fact: split_position(f"{unit.text}:{fact.head}:{fact.tail}"))
        return sorted(ranked[: self.work.settings.unrelated_pairs], key=lambda fact: (fact.head, fact.tail))

    @staticmethod
    def _pair(fact: Fact, text: str) -> dict[str, Any]:
        return {
            "head": text[slice(*fact.head)],
            "tail": text[slice(*fact.tail)],
            "head_span": list(fact.head),
            "tail_span": list(fact.tail),
            "q_head": f"Q{fact.head_item}",
            "q_tail": f"Q{fact.tail_item}",
        }

    def _type_name(self, type: str) -> str:
        return self.vocabulary.types[type][self.work.language]
