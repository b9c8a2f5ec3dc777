"""What ``configs/mix/*.yaml`` may say about the sources of a run, and the order of samples that follows.

A source has one of

- ``weight``, or just a number: its share of every global batch is its weight over the sum of the weights;
- ``epochs``: how many times the run reads it, 0.5 or 3 for instance;
- ``tokens``: how many tokens of it the run reads;
- ``per_batch``: how many rows of it every global batch holds. KnowLM's ``global_batch_distributed`` is a mapping of
  these.

Epochs and tokens are *amounts*: together they say how long the run is, each source's share of a batch is its share of
the whole. Weights and amounts can't be mixed, the ones are shares of a batch and the others of the run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from src.datamodules.order import WHEN_EXHAUSTED, SampleOrder
from src.errors import UserError

WEIGHT, PER_BATCH = "weight", "per_batch"
AMOUNTS = ("epochs", "tokens")
KINDS = (WEIGHT, *AMOUNTS, PER_BATCH)


@dataclass(frozen=True)
class Share:
    """One source's setting: ``kind`` is one of `KINDS`; ``value`` is exact, 0.4 being four tenths."""

    kind: str
    value: Fraction

    def rows(self, rows: int, tokens: int) -> int:
        """The amount in rows, for a source of so many rows and tokens; at least one."""
        passes = self.value if self.kind == "epochs" else self.value / tokens
        return max(1, round(passes * rows))


@dataclass(frozen=True)
class Mix:
    """The sources of a run by name, and what happens when one runs out: ``repeat``, ``stop`` or ``reweight``."""

    shares: dict[str, Share]
    when_exhausted: str = "repeat"

    @classmethod
    def parse(cls, sources: Mapping[str, Any] | None, when_exhausted: str, global_batch_size: int) -> "Mix":
        """Read the settings of a mix.

        Args:
            sources: by name a number, a mapping of one of `KINDS` to a number, or None to leave the source out.

        Raises:
            UserError: a setting is impossible, or some don't go together.
        """
        if when_exhausted not in WHEN_EXHAUSTED:
            raise UserError(
                f"mix.when_exhausted={when_exhausted!r} is not one of {', '.join(WHEN_EXHAUSTED)}: choose one"
            )
        shares = {name: _share(name, setting) for name, setting in (sources or {}).items() if setting is not None}
        if not shares:
            raise UserError("the mix names no source: give mix.sources, such as {zh: 0.7, en: 0.3}")
        _check_kinds(shares)
        total = sum(share.value for share in shares.values())
        if PER_BATCH in {share.kind for share in shares.values()} and total != global_batch_size:
            counts = " + ".join(f"{share.value} {name}" for name, share in shares.items())
            raise UserError(
                f"a global batch of the mix has {counts} = {total} rows and data.global_batch_size is "
                f"{global_batch_size}: make the two equal"
            )
        return cls(shares, when_exhausted)

    @property
    def has_amounts(self) -> bool:
        """Whether the mix says how long the run is."""
        return any(share.kind in AMOUNTS for share in self.shares.values())

    def order(self, rows: Mapping[str, int], tokens: Mapping[str, int], block_size: int, seed: int) -> SampleOrder:
        """The order of samples over sources of so many packed rows and tokens, numbered as in ``rows``."""
        amounts = None
        if self.has_amounts:
            amounts = [self.shares[name].rows(rows[name], tokens[name]) for name in rows]
        return SampleOrder(
            sizes=list(rows.values()),
            weights=[self.shares[name].value for name in rows],
            block_size=block_size,
            seed=seed,
            when_exhausted=self.when_exhausted,
            amounts=amounts,
        )


def describe(order: SampleOrder, names: list[str]) -> list[str]:
    """Sentences about what is read when, for the log."""
    said = []
    for phase in order.phases:
        size, weights = phase.shares.block_size, phase.shares.weights
        if phase.blocks == 1 and len(order.phases) > 1:
            continue  # the last rows of a source
        shares = ", ".join(
            f"{name} {size * weight / sum(weights):.2f}" for name, weight in zip(names, weights, strict=True) if weight
        )
        said.append(f"from step {phase.first_block + 1} on, rows in a global batch of {size}: {shares}")
    read = [phase.before for phase in order.phases][-1]
    last = order.phases[-1]
    if last.blocks is not None:
        read = tuple(old + new for old, new in zip(read, last.shares.after(last.blocks), strict=True))
        passes = ", ".join(
            f"{name} {taken / rows:.3g}×" for name, taken, rows in zip(names, read, order.sizes, strict=True)
        )
        over = (order.total_samples or 0) % order.block_size
        said.append(
            f"the mix ends after {order.whole_blocks} steps, having read {passes}"
            + (f"; rows left over, too few for a global batch: {over}" if over else "")
        )
    return said


def _share(name: str, setting: Any) -> Share:
    kind, value = WEIGHT, setting
    if isinstance(setting, Mapping):
        if len(setting) != 1 or next(iter(setting)) not in KINDS:
            raise UserError(
                f"mix.sources.{name}={dict(setting)} was not understood: give a number, or exactly one of "
                f"{', '.join(KINDS)}, such as {name}={{epochs: 2}}"
            )
        kind, value = next(iter(setting.items()))
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value <= 0:
        raise UserError(
            f"mix.sources.{name}: {kind} must be a positive number, found {value!r}; null leaves a source out"
        )
    if kind == PER_BATCH and value != int(value):
        raise UserError(f"mix.sources.{name}: {kind} must be a whole number of rows, found {value!r}")
    return Share(kind, Fraction(str(value)))


def _check_kinds(shares: Mapping[str, Share]) -> None:
    def named(*kinds: str) -> str:
        return ", ".join(name for name, share in shares.items() if share.kind in kinds)

    groups = {"a weight": named(WEIGHT), "epochs or tokens": named(*AMOUNTS), "rows per batch": named(PER_BATCH)}
    given = [f"{names} {kind}" for kind, names in groups.items() if names]
    if len(given) > 1:
        raise UserError(
            f"the mix gives {' and '.join(given)}: weights and rows per batch are shares of a batch, epochs and tokens "
            "are amounts of the whole run, so give all sources the same kind (epochs and tokens go together)"
        )
