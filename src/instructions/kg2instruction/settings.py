"""What a user says of a run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from src.errors import UserError
from src.instructions.kg2instruction.mentions import Dictionary
from src.instructions.kg2instruction.passages import Limits
from src.instructions.kg2instruction.relate import Relating
from src.instructions.kg2instruction.vocabulary import check_language


@dataclass
class Settings:
    """What holds for a run.

    wikidata: dump, or files of entities; not needed where `index` exists.
    wikipedia: XML dump files.
    output: folder to write into.
    index: file that Wikidata is read into once and which other runs can use; None: in the output folder.
    dictionary: which names are looked for beside links; see `MentionFinder`.
    ner: function without arguments that gives a recogniser of names (text to offsets); None for none.
    entailment: settings of `EntailmentFilter`; None for no filter.
    completion: function without arguments that gives a `Complete`; None for none.
    max_triples: a text with more is left out.
    min_triples: a text with fewer is left out, but for the empty ones that `empty_texts` asks for.
    empty_texts: share of the texts with two entities or more and no triple that are kept, as examples of nothing.
    unrelated_pairs: pairs without a relation that a record names at most, in its field ``no_relation``.
    validation_fraction, test_fraction: of the pages.
    part_bytes: of a Wikipedia file that one task works on; a file has at most 128 tasks.
    """

    wikipedia: list[str]
    output: Path
    language: str = "en"
    wikidata: list[str] = field(default_factory=list)
    index: Path | None = None
    limits: Limits = field(default_factory=Limits)
    relating: Relating = field(default_factory=Relating)
    dictionary: Dictionary = "neighbours"
    ner: Callable[[], Any] | None = None
    entailment: dict[str, Any] | None = None
    completion: Callable[[], Any] | None = None
    max_triples: int = 30
    min_triples: int = 1
    empty_texts: float = 0.0
    unrelated_pairs: int = 0
    validation_fraction: float = 0.02
    test_fraction: float = 0.02
    part_bytes: int = 16_000_000
    overwrite: bool = False
    keep_work: bool = False

    def __post_init__(self) -> None:
        check_language(self.language)
        self.output = Path(self.output).expanduser().absolute()
        self.index = None if self.index is None else Path(self.index).expanduser().absolute()
        for name in ("max_triples", "min_triples", "unrelated_pairs", "part_bytes"):
            if not isinstance(getattr(self, name), int):
                raise UserError(f"{name}={getattr(self, name)} is no whole number: give one such as 5")
        if self.dictionary not in get_args(Dictionary):
            raise UserError(
                f"dictionary={self.dictionary} is not known: choose one of {', '.join(get_args(Dictionary))}"
            )
        if self.entailment is not None and "model" not in self.entailment:
            raise UserError("entailment names no model: give entailment={model: FOLDER}")
        for name in ("empty_texts", "validation_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} is no fraction: give a number from 0 to 1")
        if self.validation_fraction + self.test_fraction > 1:
            raise UserError("validation_fraction and test_fraction are more than 1 together: give smaller ones")
        if not 1 <= self.min_triples <= self.max_triples:
            raise UserError(
                f"min_triples={self.min_triples} and max_triples={self.max_triples} leave no texts: give 1 ≤ min ≤ max"
            )
        if self.part_bytes < 1:
            raise UserError(f"part_bytes={self.part_bytes} is no size: give bytes, such as 16000000")
        if self.unrelated_pairs < 0:
            raise UserError(f"unrelated_pairs={self.unrelated_pairs} is no number of pairs: give 0 or more")
        self.limits.of(self.language)  # type: ignore[arg-type]
