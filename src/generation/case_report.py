"""What came out of a set of cases: each marked finished, cut off or repeated, as a page, as JSON and in one line."""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from src.errors import UserError
from src.generation.engine import Decoding
from src.generation.repetition import repeats_from
from src.generation.tasks import Answer, Case

Mark = Literal["finished", "cut off", "repeated"]
SUFFIXES = (".md", ".json", ".jsonl")


@dataclass(frozen=True)
class CaseResult:
    """The answer to a case.

    mark: ``repeated`` where the answer runs into a loop at its end (see `src.generation.repetition`), else ``finished``
        at an end token or stop text, ``cut off`` at the limit of tokens.
    repeats_from: index of the character of the answer where it begins to repeat itself.
    settings: of the decoding, as far as they are not the defaults, and ``max_new_tokens``.
    without_effect: see `Case`.
    """

    id: str
    mark: Mark
    prompt: str
    text: str
    repeats_from: int | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    settings: dict[str, Any]
    without_effect: dict[str, float]


def judge(case: Case, answer: Answer) -> CaseResult:
    """Mark an answer."""
    start = repeats_from(answer.text)
    mark: Mark = "repeated" if start is not None else "finished" if answer.finish_reason == "stop" else "cut off"
    return CaseResult(
        answer.id,
        mark,
        answer.prompt,
        answer.text,
        start,
        answer.finish_reason,
        answer.prompt_tokens,
        answer.completion_tokens,
        settings_of(case.decoding),
        case.without_effect,
    )


def settings_of(decoding: Decoding) -> dict[str, Any]:
    """The settings that differ from the defaults, and the limit of tokens."""
    changed = {field.name: getattr(decoding, field.name) for field in fields(Decoding)}
    plain = Decoding()
    return {name: value for name, value in changed.items() if value != getattr(plain, name) or name == "max_new_tokens"}


@dataclass
class CaseReport:
    """All results of one run.

    about: what it ran on: model, engine, precision, versions and so on, as it is written to the JSON file.
    seconds: it took to generate.
    """

    cases: str
    about: dict[str, Any]
    results: list[CaseResult]
    seconds: float = 0.0

    def summary(self) -> str:
        """One line: how many of each mark, tokens, tokens/s."""
        tokens = sum(result.completion_tokens for result in self.results)
        marks = ", ".join(f"{count} {mark}" for mark, count in self.counts().items())
        return f"{len(self.results)} cases: {marks}; {tokens} tokens, {tokens / max(self.seconds, 1e-9):.1f} tokens/s"

    def counts(self) -> dict[str, int]:
        marks = [result.mark for result in self.results]
        return {mark: marks.count(mark) for mark in ("finished", "cut off", "repeated")}  # type: ignore[arg-type]

    def write(self, output: str | Path) -> list[Path]:
        """Write ``.md``, ``.json`` or ``.jsonl``; both of the first where the name has no such ending.

        Raises:
            UserError: the name ends in something else.
        """
        files = output_files(output)
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            writer = {".md": self.markdown, ".json": self.json, ".jsonl": self.json_lines}[file.suffix]
            file.write_text(writer(), encoding="utf-8")
        return files

    def json(self) -> str:
        """One object: what ran, counts, results."""
        counts = {**self.counts(), "seconds": round(self.seconds, 3)}
        everything = {"cases": self.cases, **self.about, "summary": counts, "results": list(map(asdict, self.results))}
        return json.dumps(everything, ensure_ascii=False, indent=2) + "\n"

    def json_lines(self) -> str:
        """One result a line."""
        return "".join(json.dumps(asdict(result), ensure_ascii=False) + "\n" for result in self.results)

    def markdown(self) -> str:
        """A page: what ran, a table of contents with the marks, then each case."""
        parts = [f"# Cases: {self.cases}", self.summary()]
        parts.append("\n".join(f"- {name}: {_one_line(value)}" for name, value in self.about.items()))
        names = [(result, f"case-{number}") for number, result in enumerate(self.results, 1)]
        rows = [f"| [{result.id}](#{anchor}) | {described(result)} |" for result, anchor in names]
        parts.append("\n".join(["| case | answer |", "|---|---|", *rows]))
        for result, anchor in names:
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", result.prompt + result.text)), default=0))
            parts.append(f'<a id="{anchor}"></a>\n\n## {result.id}\n\n{shown_settings(result)}')
            parts.append(f"Prompt:\n\n{fence}\n{result.prompt}\n{fence}")
            parts.append(f"Answer, {described(result)}:\n\n{fence}\n{result.text}\n{fence}")
        return "\n\n".join(parts) + "\n"


def output_files(output: str | Path) -> list[Path]:
    """The files that ``output=`` stands for. Raises `UserError` for an ending that is not known."""
    file = Path(output)
    if file.suffix in SUFFIXES:
        return [file]
    if file.suffix:
        raise UserError(f"output={output} must end in {', '.join(SUFFIXES)}, or in nothing for .md and .json")
    return [file.with_suffix(".md"), file.with_suffix(".json")]


def described(result: CaseResult) -> str:
    """How an answer ended: ``repeated from character 212, 512 tokens``."""
    where = "" if result.repeats_from is None else f" from character {result.repeats_from}"
    return f"{result.mark}{where}, {result.completion_tokens} tokens"


def shown_settings(result: CaseResult) -> str:
    """The decoding of a case in words, and what KnowLM passed beside it."""
    names = {"num_beams": "beams", "max_new_tokens": "tokens at most"}
    settings = ", ".join(
        f"{names.get(name, name.replace('_', ' '))} {value}" for name, value in result.settings.items()
    )
    if not result.without_effect:
        return settings
    others = ", ".join(f"{name} {value}" for name, value in result.without_effect.items())
    return f"{settings} (KnowLM also passed {others}: without effect, as beam search does not sample)"


def _one_line(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
