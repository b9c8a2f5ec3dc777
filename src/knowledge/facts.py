"""A fact: a triple once, with everywhere it was found."""

from dataclasses import dataclass
from typing import Any

from src.knowledge.iris import is_value
from src.knowledge.triples import Provenance, Triple


@dataclass(frozen=True)
class Fact:
    """Two entities, or an entity and a value, and how they are related.

    mentions: the same as it was found, each time with names, offsets, score and provenance of its own. Names differ
        from those of the fact where entities were merged. Empty where nothing is known but the triple itself.
    """

    head: str
    relation: str
    tail: str
    head_type: str = ""
    tail_type: str = ""
    mentions: tuple[Triple, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the triple, the documents that state it, and its mentions."""
        fields = Triple(self.head, self.relation, self.tail, self.head_type, self.tail_type).as_dict()
        documents = [mention.provenance.document for mention in self.mentions if mention.provenance]
        fields["documents"] = list(dict.fromkeys(document for document in documents if document))
        return fields | {"mentions": [mention.as_dict() for mention in self.mentions]}


def says_more(triple: Triple) -> bool:
    """Whether more is known than the triple itself: where it stands, who says so, how sure that is.

    The type of a value counts too, because RDF can't give a literal a type of ours.
    """
    has_place = triple.head_span is not None or triple.tail_span is not None
    is_found = has_place or triple.score is not None or triple.provenance not in (None, Provenance())
    return is_found or (triple.tail_type != "" and is_value(triple.tail, triple.tail_type))


def fact_of(triple: Triple) -> Fact:
    """A triple as a fact that was found once."""
    mentions = (triple,) if says_more(triple) else ()
    return Fact(triple.head, triple.relation, triple.tail, triple.head_type, triple.tail_type, mentions)
