#!/usr/bin/env python
"""How fast the knowledge store takes facts in and finds them, beside rdflib's in-memory graph.

    python benchmarks/knowledge.py [--triples 1000000] [--lookups 2000]

All times are CPU seconds of this process, so that what else runs does not count. The triples are drawn: heads by a
heavy tail, so that few entities have most facts, tails evenly, a fifth as many names as triples at each end, fifty
relations, English heads and Chinese tails. Adding is measured twice: plain triples, and
triples with types, offsets, score, document, source and sentence, which in RDF are reified statements; of those rdflib
is given a part (--reified), since each is a dozen RDF triples in memory. Ours is on disk, committed; rdflib's is in
memory and gone with the process. Look-ups: facts of an entity by its name, with their mentions; facts by relation and
tail; one SPARQL query of two patterns a look-up, the same text to both.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from saving import save

from src.knowledge.exports import write_facts
from src.knowledge.facts import fact_of
from src.knowledge.iris import ENTITY, PREFIXES, RELATION, Value, iri
from src.knowledge.rdf import statements
from src.knowledge.store import KnowledgeStore
from src.knowledge.triples import Provenance, Span, Triple

PEER = "rdflib Graph in memory"
Result = dict[str, Any]


def drawn(count: int, plain: bool) -> Iterator[Triple]:
    """Triples by chance, the same ones each time."""
    draw = random.Random(0)
    names = max(1, count // 5)
    for number in range(count):
        head, tail = int(draw.paretovariate(0.5)) % names, int(draw.random() * names)
        parts = (f"entity {head}", f"relation {head % 50}", f"实体 {tail}")
        if plain:
            yield Triple(*parts)
            continue
        where = Provenance(
            f"document {number // 10}", "smollm2_135m", f"The entity {head} stands beside 实体 {tail} here."
        )
        yield Triple(*parts, "Person", "城市", Span(4, 11), Span(25, 30), draw.random(), where)


def seconds(do: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    start = time.process_time()
    found = do()
    return time.process_time() - start, found


def rdf_graph(triples: Iterator[Triple]) -> Any:
    """The triples as rdflib keeps them."""
    from rdflib import Graph, Literal, URIRef

    graph = Graph()

    def term(value: str | Value) -> Any:
        if isinstance(value, str):
            return URIRef(value)
        return Literal(value.text, datatype=URIRef(value.datatype) if value.datatype else None)

    for triple in triples:
        for subject, predicate, value in statements(fact_of(triple)):
            graph.add((URIRef(subject), URIRef(predicate), term(value)))
    return graph


def adding(folder: Path, count: int, reified: int) -> tuple[list[Result], KnowledgeStore, Any]:
    """Triples a second, plain and with provenance; leaves the store with provenance and the plain graph."""
    with KnowledgeStore(folder / "plain.db") as plain:
        ours, _ = seconds(lambda: plain.add(drawn(count, plain=True)))
    peer, graph = seconds(lambda: rdf_graph(drawn(count, plain=True)))
    results = [compared("knowledge.add_plain", count / ours, count / peer, "triples/CPU-s", f"{count:,} triples")]
    store = KnowledgeStore(folder / "facts.db")
    ours, _ = seconds(lambda: store.add(drawn(count, plain=False)))
    peer, _ = seconds(lambda: rdf_graph(drawn(reified, plain=False)))
    note = f"with provenance; {count:,} triples, {reified:,} to rdflib"
    results.append(compared("knowledge.add_mentions", count / ours, reified / peer, "triples/CPU-s", note))
    megabytes = os.path.getsize(folder / "facts.db") / 1e6
    results.append(alone("knowledge.file", megabytes, "MB", f"{len(store):,} facts, {count:,} mentions"))
    return results, store, graph


def lookups(store: KnowledgeStore, graph: Any, count: int, names: int) -> list[Result]:
    """Microseconds for each kind of look-up; the peer's graph has the plain triples."""
    from rdflib import URIRef

    draw = random.Random(1)
    tails = [int(draw.random() * names) for _ in range(count)]
    rows: list[tuple[str, Callable[[int], Any], Callable[[int], Any], str]] = [
        (
            "knowledge.about",
            lambda n: store.about(f"实体 {n}"),
            lambda n: [
                list(graph.triples((None, None, URIRef(iri(ENTITY, f"实体 {n}"))))),
                list(graph.triples((URIRef(iri(ENTITY, f"实体 {n}")), None, None))),
            ],
            "facts of an entity; ours with their mentions",
        ),
        (
            "knowledge.match",
            lambda n: list(store.match(relation="relation 7", tail=f"实体 {n}")),
            lambda n: list(
                graph.triples((None, URIRef(iri(RELATION, "relation 7")), URIRef(iri(ENTITY, f"实体 {n}"))))
            ),
            "facts by relation and tail; ours with their mentions",
        ),
        ("knowledge.search", lambda n: store.search(f"体 {n}", 5), lambda n: None, "names by a part of them"),
    ]
    results = []
    for metric, ours, peer, note in rows:
        own = per_call(ours, tails)
        results.append(
            alone(metric, own, "CPU-us", note)
            if metric == "knowledge.search"
            else compared(metric, own, per_call(peer, tails), "CPU-us", note)
        )
    query = "SELECT ?head {{ ?head r:relation%207 ?x . ?x rdfs:label '实体 {}' }}"
    few = tails[: max(10, count // 20)]
    own = per_call(lambda n: list(store.query(query.format(n))), few)
    peers = per_call(lambda n: list(graph.query(query.format(n), initNs=PREFIXES)), few)
    return [
        *results,
        compared("knowledge.sparql", own, peers, "CPU-us", "two patterns, by label; reading the query included"),
    ]


def per_call(call: Callable[[int], Any], arguments: list[int]) -> float:
    """Median microseconds."""
    return statistics.median(seconds(lambda n=n: call(n))[0] for n in arguments) * 1e6


def whole(store: KnowledgeStore, folder: Path) -> list[Result]:
    """Exporting and merging everything."""
    turtle, facts = seconds(lambda: write_facts(store.facts(), folder / "facts.nt"))
    merge, _ = seconds(store.merge_duplicates)
    return [
        alone("knowledge.export", facts / turtle, "facts/CPU-s", "N-Triples with provenance"),
        alone("knowledge.merge", merge, "CPU-s", f"{store.counts()['names']:,} names, none of them the same"),
    ]


def compared(metric: str, ours: float, peer: float, unit: str, note: str) -> Result:
    return {
        **{"metric": metric, "ours": ours, "peer": peer, "peer_name": PEER, "ratio": ours / peer if peer else None},
        **{"unit": unit, "note": note},
    }


def alone(metric: str, ours: float, unit: str, note: str) -> Result:
    return {"metric": metric, "ours": ours, "peer": None, "peer_name": None, "ratio": None, "unit": unit, "note": note}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--reified", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results, store, graph = adding(folder, arguments.triples, min(arguments.reified, arguments.triples))
        results += lookups(store, graph, arguments.lookups, arguments.triples // 5)
        del graph
        results += whole(store, folder)
        store.close()
    for row in results:
        peer = f"{row['peer']:14,.1f} {row['ratio']:8.2f}" if row["peer"] is not None else f"{'':>23}"
        print(f"{row['metric']:24} {row['ours']:14,.1f} {peer} {row['unit']:13} {row['note']}")
    save("knowledge", results, ("rdflib",))


if __name__ == "__main__":
    main()
