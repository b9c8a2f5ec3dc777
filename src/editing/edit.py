"""One fact to change, and what is asked to see whether it changed and what else did."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from src.errors import UserError


@dataclass(frozen=True)
class Probe:
    """A question beside the fact.

    name: which kind, in the words of its data set: Relation_Specificity, Subject_Aliasing, neighborhood, ….
    answers: any of which counts; aliases are kept.
    """

    prompt: str
    answers: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError(f"a probe ({self.name or 'without name'}) has no prompt: give one")


@dataclass(frozen=True)
class Edit:
    """A fact as the model shall say it: ``prompt`` continued by ``target_new``.

    Args:
        prompt: "The capital of France is", a question, or Chinese text; holds the subject where there is one.
        target_new: what the model shall say. A blank before it is put where the language has blanks.
        subject: as it stands in the prompt; methods that write at the subject's last token need it.
        ground_truth: what was right before; any of them counts.
        rephrases: the prompt in other words, with the same answer (generalization).
        locality: questions whose answers must stay what they are.
        portability: questions whose answers follow from the new fact.
        relation: what it says of the subject; with the subject it tells which edits contradict each other.
        group: edits of one case, whose probes are asked when all of them are made (MQuAKE).
        id: unique among the edits of a file.

    Raises:
        UserError: no prompt, no target, or a subject that is not in the prompt.
    """

    prompt: str
    target_new: str
    subject: str | None = None
    ground_truth: tuple[str, ...] = ()
    rephrases: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    relation: str | None = None
    group: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        name = f"edit {self.id}" if self.id else "an edit"
        for key in ("prompt", "target_new"):
            if not getattr(self, key).strip():
                raise UserError(f"{name} has no {key}: give one")
        if self.subject is not None and (not self.subject.strip() or self.subject not in self.prompt):
            raise UserError(
                f"{name}: the subject '{self.subject}' does not stand in the prompt '{self.prompt}': "
                "write both alike, or leave the subject out"
            )

    @property
    def topic(self) -> tuple[str, str]:
        """What the edit is about: two with the same topic and different targets contradict each other."""
        if self.subject is None:
            return "", _plain(self.prompt)
        return _plain(self.subject), _plain(self.relation or self.prompt.replace(self.subject, "{}"))

    def contradicts(self, other: "Edit") -> bool:
        """Whether both say something else of the same thing."""
        return self.topic == other.topic and _plain(self.target_new) != _plain(other.target_new)

    def as_dict(self) -> dict[str, Any]:
        """As JSON data, which `from_dict` takes back; what is empty is left out."""
        return _without_empty(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The edit of `as_dict`'s data. Raises `UserError` for keys that are none of ours or have another type."""
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise UserError(f"'{unknown[0]}' is no key of an edit: give {', '.join(each.name for each in fields(cls))}")
        given = dict(data)
        for key in ("prompt", "target_new"):
            if not isinstance(given.get(key), str):
                raise UserError(f"an edit's {key} is a text: found {given.get(key)!r:.80}")
        for key in ("subject", "relation", "group"):
            if given.get(key) is not None and not isinstance(given[key], str):
                raise UserError(f"an edit's {key} is a text: found {given[key]!r:.80}")
        for key in ("ground_truth", "rephrases"):
            given[key] = texts(given.get(key), key)
        for key in ("locality", "portability"):
            given[key] = tuple(_probe(each, key) for each in given.get(key) or ())
        return cls(**given | {"id": str(given.get("id", ""))})


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A text, a list of texts, or a list of lists of aliases, as texts without repeats. Raises `UserError`."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (str(value),)
    if not isinstance(value, Sequence):
        raise UserError(f"{what} is a text or a list of texts: found {value!r:.80}")
    return tuple(dict.fromkeys(text for each in value for text in texts(each, what)))


def _probe(data: Any, what: str) -> Probe:
    if not isinstance(data, Mapping) or not isinstance(data.get("prompt"), str):
        raise UserError(f"{what} is a list of objects with prompt and answers: found {data!r:.80}")
    return Probe(data["prompt"], texts(data.get("answers"), "answers"), str(data.get("name") or ""))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _without_empty(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_empty(value) for key, value in data.items() if value not in (None, "", (), [])}
    if isinstance(data, (list, tuple)):
        return [_without_empty(each) for each in data]
    return data
