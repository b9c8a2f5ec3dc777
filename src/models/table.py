"""The model zoo as a table for the terminal."""

from rich.console import Group
from rich.table import Table

from src.models.download import is_cached
from src.models.spec import ModelSpec


def zoo_table(models: list[ModelSpec]) -> Group:
    """What there is to choose from, for the terminal: a table, then a line about each model."""
    table, notes = Table(box=None, header_style="bold", padding=(0, 2, 0, 0)), Table.grid(padding=(0, 2, 0, 0))
    for column in ("name", "weights", "context", "size", "template", "local", "licence"):
        numeric = column in {"weights", "context", "size"}
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for spec in models:
        table.add_row(
            spec.name,
            _count(spec.parameters),
            str(spec.context_length),
            _size(spec.size_gb),
            spec.template or "own",
            "yes" if is_cached(spec) else "no",
            spec.license,
        )
        notes.add_row(spec.name, spec.note)
    return Group(table, "", notes)


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _size(gigabytes: float) -> str:
    if not gigabytes:
        return "-"
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f} MB"
