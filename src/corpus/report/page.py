"""``report.json`` and ``report.html`` of a corpus run.

The page is one file without scripts or network: tables, inline SVG, and ``<details>`` for the examples. All text of
documents is escaped; control characters, which HTML forbids, are shown as their pictures.
"""

import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from src.corpus.report import plots
from src.corpus.report.counts import EXACT, NEAR, PARAGRAPHS, CorpusReport, Histogram, SourceReport
from src.corpus.report.plots import megabytes, percent
from src.shards.manifest import Counts

CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}
DUPLICATE_NAMES = {
    EXACT: "exact duplicates",
    NEAR: "near duplicates",
    PARAGRAPHS: "repeated paragraphs",
}


def write_report(report: CorpusReport, folder: str | Path) -> None:
    """Write ``report.json`` and ``report.html`` into a folder, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a lone surrogate, which UTF-8 cannot hold, becomes \udXXX: to JSON that is the same string
    data = json.dumps(report.to_dict(), ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace")
    for name, content in (("report.json", data + b"\n"), ("report.html", render(report).encode("utf-8", "replace"))):
        temporary = folder / f"{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)


def read_report(file: str | Path) -> CorpusReport:
    """The report in a ``report.json``."""
    return CorpusReport.from_dict(json.loads(Path(file).read_text(encoding="utf-8")))


def render(report: CorpusReport) -> str:
    """The page as HTML."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    sources = list(report.sources.values())
    links = "".join(f'<a href="#source-{i}">{_text(source.name)}</a>' for i, source in enumerate(sources))
    sections = "".join(_source(f"source-{i}", source) for i, source in enumerate(sources))
    settings = json.dumps(report.settings, ensure_ascii=False, indent=2, default=str)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(report.corpus)}: corpus report</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{_text(report.corpus)}</h1>
<p>{_text(_subtitle(report))}</p>
<nav>{links}</nav>
</header>
<main>
{_cards(report)}
{_overview(sources)}
{sections}
<h2>Settings</h2>
<details><summary>what the shards depend on</summary><pre class="settings">{_text(settings)}</pre></details>
</main>
<footer>Documents and bytes are counted as UTF-8 text. Every record that was read is in the shards or in one of the
counts of what was left out.</footer>
</body>
</html>
"""


def _subtitle(report: CorpusReport) -> str:
    parts = [report.date, report.executor]
    if report.seconds:
        parts.append(f"{_duration(report.seconds)} on the clock")
    if report.cpu_seconds:
        parts.append(f"{_duration(report.cpu_seconds)} of CPU")
    return " · ".join(filter(None, parts))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _cards(report: CorpusReport) -> str:
    sources = report.sources.values()
    total = sum((source.total for source in sources), Counts())
    records = sum(source.records for source in sources)
    read = sum(_bytes_read(source) for source in sources)
    cards = [
        (f"{records:,}", "records read"),
        (f"{total.documents:,}", f"documents in the shards ({percent(total.documents, records)})"),
        (megabytes(total.bytes), "of text in the shards"),
        (plots.short(total.tokens), f"tokens, {total.bytes / max(total.tokens, 1):.2f} bytes each"),
        (plots.short(total.segments), f"segments, {_fill(sources):.1%} full"),
    ]
    if report.cpu_seconds:
        cards.append((f"{read / 1e6 / report.cpu_seconds:.1f} MB", "of text for each second of CPU"))
    items = "".join(f"<li><b>{_text(number)}</b><span>{_text(what)}</span></li>" for number, what in cards)
    return f'<ul class="cards">{items}</ul>'


def _fill(sources: Iterable[SourceReport]) -> float:
    rows = [(source.total.tokens, source.total.segments * source.max_length) for source in sources]
    return sum(tokens for tokens, _ in rows) / max(sum(places for _, places in rows), 1)


def _bytes_read(source: SourceReport) -> int:
    """Text that came out of the reader; without cleaning steps, what went into the shards and the duplicates."""
    if source.steps:
        return source.steps[0].bytes_in
    return source.total.bytes + sum(found.bytes for found in source.duplicates.values())


def _overview(sources: Sequence[SourceReport]) -> str:
    rows = [
        [
            f'<a href="#source-{i}">{_text(source.name)}</a>',
            f"{source.records:,}",
            f"{source.bad_records + source.empty:,}",
            f"{source.dropped:,}",
            f"{source.duplicate_documents:,}",
            f"{source.total.documents:,}",
            plots.share_bar(source.total.documents / source.records) if source.records else "",
            megabytes(source.total.bytes),
            f"{source.total.tokens:,}",
            f"{source.total.bytes / max(source.total.tokens, 1):.2f}",
            f"{source.fill:.1%}",
            _packed(source),
        ]
        for i, source in enumerate(sources)
    ]
    headings = ["source", "records", "bad, empty", "dropped", "duplicates", "documents", "kept", "text", "tokens"]
    return _table([*headings, "bytes/token", "fill", "packed"], rows, left=(0,), lost=(2, 3, 4))


def _packed(source: SourceReport) -> str:
    return "" if source.packed_fill is None else f"{source.packed_fill:.2%}"


def _source(anchor: str, source: SourceReport) -> str:
    facts = [
        source.language,
        f"{_counted(source.files, 'file')}, {megabytes(source.input_bytes)} as stored" if source.files else "",
        f"{_counted(source.replaced, 'document')} with invalid UTF-8 replaced" if source.replaced else "",
        f"{megabytes(source.lost_bytes)} of input lost to damage" if source.lost_bytes else "",
        *(f"{_counted(count, 'web record')} skipped: {reason}" for reason, count in source.skipped.items()),
    ]
    parts = [
        f'<h2 id="{anchor}">{_text(source.name)}</h2>',
        f"<p>{_text(' · '.join(filter(None, facts)))}</p>",
        _flow(source),
        _steps(source),
        _rules(source),
        _bad(source),
        _duplicates(source),
        _lengths(source),
        _splits(source),
    ]
    return f"<section>{''.join(parts)}</section>"


def _flow(source: SourceReport) -> str:
    picture = plots.flow(stages(source))
    return f'<div class="wide">{picture}</div>' if picture else ""


def stages(source: SourceReport) -> list[plots.FlowStage]:
    """What is left of a source after reading, each cleaning step and each kind of duplicates."""
    left, size = source.records, _bytes_read(source)
    found = [plots.FlowStage("records", left, size)]
    unread = source.bad_records + source.empty
    left -= unread
    found.append(plots.FlowStage("readable", left, size, unread))
    for step in source.steps:
        left, size = step.documents_out, step.bytes_out
        found.append(plots.FlowStage(step.name, left, size, step.documents_in - step.documents_out))
    for kind, duplicates in source.duplicates.items():
        size -= duplicates.bytes
        if kind != PARAGRAPHS:
            left -= duplicates.found
            found.append(plots.FlowStage(DUPLICATE_NAMES.get(kind, kind), left, size, duplicates.found))
    found.append(plots.FlowStage("shards", source.total.documents, source.total.bytes))
    return found


def _steps(source: SourceReport) -> str:
    if not source.steps:
        return ""
    rows = [
        [
            f"<code>{_text(step.name)}</code>",
            f"{step.documents_in:,}",
            f"{step.documents_out:,}",
            f"{step.documents_in - step.documents_out:,}",
            megabytes(step.bytes_in),
            megabytes(step.bytes_out),
            f"{step.changed:,}",
            _text(", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in step.counters.items())),
        ]
        for step in source.steps
    ]
    headings = ["step", "documents in", "out", "dropped", "text in", "out", "texts changed", "counted"]
    return "<h3>Cleaning</h3>" + _table(headings, rows, left=(0, 7), lost=(3,))


def _rules(source: SourceReport) -> str:
    rows = []
    for step in source.steps:
        for rule, dropped in sorted(step.dropped.items(), key=lambda item: -item[1].documents):
            examples = [(e.get("id", ""), e.get("why", ""), e.get("text", "")) for e in dropped.examples]
            rows.append(
                [
                    f"<code>{_text(step.name)}</code>",
                    f"<code>{_text(rule)}</code>",
                    f"{dropped.documents:,}",
                    percent(dropped.documents, source.records),
                    megabytes(dropped.bytes),
                    _examples(examples),
                ]
            )
    if not rows:
        return ""
    headings = ["step", "rule", "documents", "of all", "text", "examples"]
    return "<h3>Dropped, by rule</h3>" + _table(headings, rows, left=(0, 1, 5), lost=(2,))


def _bad(source: SourceReport) -> str:
    if not source.bad:
        return ""
    rows = [
        [
            _text(reason),
            f"{bad.records:,}",
            percent(bad.records, source.records),
            _examples([(f"{e.file}:{e.place}", e.reason, "") for e in bad.examples]),
        ]
        for reason, bad in source.bad.items()
    ]
    return "<h3>Could not be read</h3>" + _table(["reason", "records", "of all", "examples"], rows, (0, 3), (1,))


def _duplicates(source: SourceReport) -> str:
    if not source.duplicates:
        return ""
    rows = [
        [
            DUPLICATE_NAMES.get(kind, _text(kind)),
            f"{found.found:,}",
            "" if kind == PARAGRAPHS else percent(found.found, source.records),
            megabytes(found.bytes),
            _examples([(e.id, f"kept: {e.kept}", e.text) for e in found.examples]),
        ]
        for kind, found in source.duplicates.items()
    ]
    pictures = [
        plots.bars(found.clusters, f"{DUPLICATE_NAMES.get(kind, kind)}: how many are alike at a time", "alike", True)
        for kind, found in source.duplicates.items()
    ]
    table = _table(["kind", "left out", "of all", "text", "examples"], rows, left=(0, 4), lost=(1,))
    return f'<h3>Duplicates</h3>{table}<div class="pictures">{"".join(pictures)}</div>'


def _lengths(source: SourceReport) -> str:
    pictures = plots.bars(
        source.document_tokens, f"Length of documents{_median(source.document_tokens)}", "tokens", logarithmic=True
    )
    packed = f", {source.packed_fill:.2%} once packed" if source.packed_fill is not None else ""
    title = f"Length of segments: {source.fill:.1%} of {source.max_length:,} on average{packed}"
    pictures += plots.bars(source.segment_tokens, title, "tokens")
    return f'<h3>Lengths</h3><div class="pictures">{pictures}</div>' if pictures else ""


def _median(histogram: Histogram) -> str:
    if not histogram.total:
        return ""
    middle = histogram.median_bin()
    return f": half of them below {histogram.edges[middle + 1]:,}"


def _splits(source: SourceReport) -> str:
    rows = [
        [
            _text(split),
            f"{counts.documents:,}",
            megabytes(counts.bytes),
            f"{counts.tokens:,}",
            f"{counts.segments:,}",
            f"{counts.bytes / max(counts.tokens, 1):.2f}",
            f"{counts.tokens / max(counts.segments * source.max_length, 1):.1%}",
        ]
        for split, counts in sorted(source.splits.items())
    ]
    headings = ["split", "documents", "text", "tokens", "segments", "bytes/token", "fill"]
    return "<h3>Written</h3>" + _table(headings, rows, left=(0,)) if rows else ""


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (), lost: Sequence[int] = ()
) -> str:
    """A table of cells that are HTML already; columns of `left` are text, those of `lost` count what was left out."""

    def style(column: int, cell: str = "") -> str:
        names = ["left"] * (column in left) + ["lost"] * (column in lost and cell not in ("", "0"))
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f"<th{style(i)}>{_text(heading)}</th>" for i, heading in enumerate(headings))
    body = "".join(
        f"<tr>{''.join(f'<td{style(i, cell)}>{cell}</td>' for i, cell in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _examples(examples: Sequence[tuple[str, str, str]]) -> str:
    """Examples to unfold: where each is, why it is one, and how its text begins."""
    if not examples:
        return ""
    items = "".join(
        f'<li><span class="id">{_text(where)} {"· " if why else ""}{_text(why)}</span>'
        f"{f'<pre>{_text(text)}</pre>' if text else ''}</li>"
        for where, why, text in examples
    )
    return (
        f'<details><summary>{_counted(len(examples), "example")}</summary><ul class="examples">{items}</ul></details>'
    )


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' if number != 1 else ''}"


def _text(text: str) -> str:
    """Text of anyone's for the page."""
    return escape(text.translate(CONTROL_PICTURES))
