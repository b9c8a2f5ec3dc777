"""The pictures of the report page, drawn as SVG by hand: colours come from the page's style, so that they follow its
light or dark scheme, and the page needs no plotting library, no script and no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from src.corpus.report.counts import Histogram

WIDTH, HEIGHT = 520, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 40


@dataclass(frozen=True)
class FlowStage:
    """What is left after a stage, in documents and bytes, and the documents that the stage left out."""

    name: str
    documents: int
    bytes: int
    left_out: int = 0


def flow(stages: Sequence[FlowStage]) -> str:
    """Documents through the stages: a band that grows narrower, with what each stage leaves out falling off below.

    The first stage is where all documents come from. The band's height is the share of documents that is left.
    """
    if not stages or not stages[0].documents:
        return ""
    column, band, fall = 116, 90, 46
    width, top = column * len(stages), 40
    height = top + band + fall
    parts = []
    for index, stage in enumerate(stages):
        x, y = index * column, band * stage.documents / stages[0].documents
        before = band * stages[index - 1].documents / stages[0].documents if index else y
        parts.append(_text(x + column / 2, 14, stage.name, "label strong"))
        parts.append(_text(x + column / 2, 29, f"{short(stage.documents)} · {megabytes(stage.bytes)}", "label"))
        middle = x + column * 0.45
        shape = f"M{x:.1f},{top} H{x + column} V{top + y:.1f} H{middle + 26:.1f}"
        shape += f" C{middle:.1f},{top + y:.1f} {middle:.1f},{top + before:.1f} {x:.1f},{top + before:.1f} Z"
        title = f"{stage.name}: {stage.documents:,} documents, {megabytes(stage.bytes)} go on"
        parts.append(f'<path class="band" d="{shape}"><title>{escape(title)}</title></path>')
        if stage.left_out:
            parts.append(_falling(x, top + before, top + y, top + band + 26, stage, stages[0].documents))
    return _svg(width, height, parts, "flow")


def _falling(x: float, before: float, after: float, floor: float, stage: FlowStage, total: int) -> str:
    """The piece of the band that a stage drops, bent downwards, and its number."""
    thick = max(before - after, 1.5)
    tail = x + 50
    shape = (
        f"M{x:.1f},{before - thick:.1f} C{x + 30:.1f},{before - thick:.1f} {tail:.1f},{before:.1f} {tail:.1f},{floor}"
    )
    left = max(tail - min(thick, 28), x + 8)
    shape += f" H{left:.1f} C{left:.1f},{before + 4:.1f} {x + 14:.1f},{before:.1f} {x:.1f},{before:.1f} Z"
    title = f"{stage.name} leaves out {stage.left_out:,} documents"
    label = f"−{short(stage.left_out)} ({percent(stage.left_out, total)})"
    path = f'<path class="lost" d="{shape}"><title>{escape(title)}</title></path>'
    return path + _text((left + tail) / 2, floor + 14, label, "label lost-text")


def bars(histogram: Histogram, title: str, unit: str, logarithmic: bool = False) -> str:
    """A histogram. With `logarithmic` its bins are of equal width whatever they span, and empty ends are left off."""
    if not histogram.total:
        return ""
    bins = [i for i in range(len(histogram.counts)) if histogram.edges[i + 1] > histogram.edges[i]]
    if logarithmic:
        filled = [i for i in bins if histogram.counts[i]]
        bins = [i for i in bins if filled[0] <= i <= filled[-1]]
    width = (WIDTH - LEFT - RIGHT) / len(bins)
    room = HEIGHT - TOP - BOTTOM
    most = max(histogram.counts)
    parts = [_axis(most, histogram.total, room)]
    every = max(1, -(-len(bins) // 8))
    for place, i in enumerate(bins):
        x, tall = LEFT + place * width, room * histogram.counts[i] / most
        low, high = histogram.edges[i], histogram.edges[i + 1] - 1
        span = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        tip = f"{span} {unit}: {histogram.counts[i]:,} ({percent(histogram.counts[i], histogram.total)})"
        gap = min(1.5, width * 0.2)
        parts.append(
            f'<rect class="bar" x="{x + gap / 2:.1f}" y="{TOP + room - tall:.1f}" width="{width - gap:.1f}" '
            f'height="{tall:.1f}"><title>{escape(tip)}</title></rect>'
        )
        if place % every == 0 and place + every <= len(bins):
            parts.append(_text(x, TOP + room + 14, short(low), "label tick"))
    parts.append(_text(WIDTH - RIGHT, TOP + room + 14, short(histogram.edges[bins[-1] + 1] - 1), "label", "end"))
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 6, unit, "label"))
    return f"<figure><figcaption>{escape(title)}</figcaption>{_svg(WIDTH, HEIGHT, parts, 'histogram')}</figure>"


def _axis(most: int, total: int, room: float) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + room * (1 - share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, percent(most * share, total), "label", "end"))
    return "".join(parts)


def share_bar(share: float) -> str:
    """A small bar for a table cell, full at 1."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg class="share" viewBox="0 0 100 10" role="img"><rect class="rest" width="100" height="10"/>'
        f'<rect class="bar" width="{width:.2f}" height="10"/></svg>'
    )


def short(number: float) -> str:
    """A number in five characters at most: 950, 12.3k, 4.56M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}" if number < 999.5 * size else f"{number / size:.0f}{letter}"
    return f"{number:.0f}"


def megabytes(size: float) -> str:
    """Bytes in the unit that suits: 4.2 kB, 12.3 MB, 1.05 TB."""
    text = short(size)
    return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"


def percent(part: float, whole: float) -> str:
    """A share with as many digits as it needs to be told from nothing."""
    share = part / whole if whole else 0.0
    if share and share < 0.001:
        return "<0.1%"
    return f"{share:.1%}" if share < 0.995 or share == 1 else f"{share:.2%}"


def _text(x: float, y: float, text: str, style: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: list[str], style: str) -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
