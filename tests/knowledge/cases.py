"""Triples that tests share, and a strategy that draws others."""

from hypothesis import strategies as st

from src.knowledge.triples import Provenance, Span, Triple

CAPITAL = Triple(
    *("中国", "首都", "北京", "国家", "城市"),
    *(Span(3, 5), Span(0, 2), 0.9),
    Provenance("d1", "smollm2", "北京是中国的首都。"),
)
BORN = Triple("Ada Lovelace", "born", "1815-12-10", "Person", "Date")
AGE = Triple("Ada Lovelace", "age", "36", "Person")
WROTE = Triple("Ada Lovelace", "wrote about", "Analytical Engine", provenance=Provenance("d2"))
TRIPLES = [CAPITAL, BORN, AGE, WROTE]

# Whatever a text can hold: no half surrogates, which are no characters.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
types = st.sampled_from(["", "Person", "城市", "Date", "number", "a:b/c"])
spans = st.none() | st.builds(lambda start, length: Span(start, start + length), st.integers(0, 99), st.integers(0, 9))
texts = st.just("") | names
provenances = st.none() | st.builds(Provenance, texts, texts, texts).filter(lambda where: where != Provenance())
scores = st.none() | st.floats(0, 1)
any_triples = st.builds(Triple, names, names, names, types, types, spans, spans, scores, provenances)


def same_but_for_scores(triples: list[Triple]) -> set[tuple[object, ...]]:
    """Triples without their scores, which are no part of what makes a mention another one."""
    return {(*(getattr(t, name) for name in vars(t) if name != "score"),) for t in triples}
