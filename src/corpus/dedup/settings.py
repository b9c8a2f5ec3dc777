"""What counts as a duplicate: the fields of ``configs/dedup/*.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from src.errors import UserError

Kind = Literal["exact", "minhash", "paragraph"]
Scope = Literal["corpus", "source"]
SettingsT = TypeVar("SettingsT", "DedupSettings", "MinHashSettings", "ParagraphSettings")

MAX_PERMUTATIONS = 1 << 14


@dataclass(frozen=True)
class MinHashSettings:
    """Near-duplicates: documents of Jaccard similarity s meet with probability 1 - (1 - s^rows)^bands.

    ngram: words (or single Chinese characters) in a shingle.
    bands, rows: 14 and 8 find 92 % of the pairs at s = 0.8, 56 % at 0.7 and 5 % at 0.5.
    """

    ngram: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows"):
            _check_integer(f"dedup.minhash.{name}", getattr(self, name), 1)
        _check_integer("dedup.minhash.seed", self.seed, 0)
        if self.bands * self.rows > MAX_PERMUTATIONS:
            raise UserError(
                f"dedup.minhash has {self.bands} bands of {self.rows} rows: their product may be {MAX_PERMUTATIONS} "
                "at most, 14 and 8 are usual"
            )


@dataclass(frozen=True)
class ParagraphSettings:
    """Repeated lines. Shorter ones than `min_characters`, blanks around them not counted, may come back."""

    min_characters: int = 40

    def __post_init__(self) -> None:
        _check_integer("dedup.paragraphs.min_characters", self.min_characters, 1)


@dataclass(frozen=True)
class DedupSettings:
    """What is looked for; None leaves a kind out.

    scope: ``corpus`` compares all sources with each other, ``source`` each only with itself.
    """

    exact: bool = False
    minhash: MinHashSettings | None = None
    paragraphs: ParagraphSettings | None = None
    scope: Scope = "corpus"

    def __post_init__(self) -> None:
        if not isinstance(self.exact, bool):
            raise UserError(f"dedup.exact={self.exact} is not known: set true or false")
        if self.scope not in get_args(Scope):
            raise UserError(f"dedup.scope={self.scope} is not known: set {' or '.join(get_args(Scope))}")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of duplicates that are looked for; empty when there is nothing to do."""
        chosen: dict[Kind, bool] = {
            "exact": self.exact,
            "minhash": self.minhash is not None,
            "paragraph": self.paragraphs is not None,
        }
        return tuple(kind for kind, on in chosen.items() if on)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DedupSettings":
        """Build from a config.

        Raises:
            UserError: a key is unknown or a value impossible.
        """
        values = dict(config)
        values["minhash"] = _build(MinHashSettings, "dedup.minhash", values.get("minhash"))
        values["paragraphs"] = _build(ParagraphSettings, "dedup.paragraphs", values.get("paragraphs"))
        return _build(cls, "dedup", values) or cls()


def _build(kind: type[SettingsT], name: str, values: Any) -> SettingsT | None:
    if values is None or isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise UserError(f"{name}={values} is not known: set null, or its settings")
    allowed = {field.name for field in fields(kind)}
    if unknown := set(values) - allowed:
        raise UserError(
            f"{name} has the unknown setting '{min(map(str, unknown))}': known are {', '.join(sorted(allowed))}"
        )
    return kind(**values)


def _check_integer(name: str, value: object, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise UserError(f"{name}={value} is not possible: set a whole number from {lowest} on")
