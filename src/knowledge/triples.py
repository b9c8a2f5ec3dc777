"""A fact as data: a triple, where in a text it stands, and who says so. Extraction makes them, the store keeps them."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Where something stands in a text: offsets in characters (Unicode code points), the end exclusive."""

    start: int
    end: int


@dataclass(frozen=True)
class Provenance:
    """Where a triple comes from.

    document: id of the text.
    source: what found it: a model's name, ``wikidata``, a file.
    sentence: the passage it was read in.
    """

    document: str = ""
    source: str = ""
    sentence: str = ""


@dataclass(frozen=True)
class Triple:
    """Head entity, relation, tail entity.

    head_type, tail_type: kinds of the two ends, empty where they are not known.
    head_span, tail_span: where the two ends stand in the document.
    score: probability in [0, 1] that whatever found it gives to it.
    """

    head: str
    relation: str
    tail: str
    head_type: str = ""
    tail_type: str = ""
    head_span: Span | None = None
    tail_span: Span | None = None
    score: float | None = None
    provenance: Provenance | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is known of head, relation and tail, offsets as ``[start, end]``."""
        fields: dict[str, Any] = {"head": self.head, "relation": self.relation, "tail": self.tail}
        for name in ("head_type", "tail_type", "head_span", "tail_span", "score"):
            if (value := getattr(self, name)) not in (None, ""):
                fields[name] = list(value) if isinstance(value, Span) else value
        if self.provenance is not None:
            fields["provenance"] = {key: value for key, value in vars(self.provenance).items() if value}
        return fields
