"""What configs/mix may say, and which order follows."""

from fractions import Fraction
from typing import Any

import pytest

from src.datamodules.mix import Mix, Share, describe
from src.errors import UserError

ROWS = {"zh": 1000, "en": 400, "code": 100}
TOKENS = {"zh": 1_000_000, "en": 380_000, "code": 99_000}


def order(sources: dict[str, Any], when: str = "repeat", block_size: int = 16) -> Any:
    mix = Mix.parse(sources, when, block_size)
    return mix.order({name: ROWS[name] for name in mix.shares}, TOKENS, block_size, 0)


def test_a_number_is_a_weight() -> None:
    assert Mix.parse({"zh": 5.5, "en": {"weight": 1.5}}, "stop", 16).shares == {
        "zh": Share("weight", Fraction(11, 2)),
        "en": Share("weight", Fraction(3, 2)),
    }


def test_null_leaves_a_source_out() -> None:
    assert list(Mix.parse({"zh": 1, "en": None}, "repeat", 16).shares) == ["zh"]


def test_epochs_and_tokens_fix_how_much_is_read_and_so_the_shares() -> None:
    planned = order({"zh": {"epochs": 1.5}, "en": {"tokens": 190e3}, "code": {"epochs": 4}})
    assert planned.amounts == [1500, 200, 400]
    assert planned.total_samples == 2100 and planned.whole_blocks == 131
    assert planned.phases[0].shares.weights == [15, 2, 4]


def test_a_source_of_few_tokens_still_gives_a_row() -> None:
    assert order({"zh": {"epochs": 1}, "en": {"tokens": 1}}).amounts == [1000, 1]


def test_the_order_follows_the_numbering_of_the_rows() -> None:
    mix = Mix.parse({"zh": 3, "en": 1}, "repeat", 4)
    assert mix.order({"en": 5, "zh": 7}, TOKENS, 4, 0).phases[0].shares.weights == [1, 3]


def test_rows_per_batch_are_the_same_in_every_batch() -> None:
    planned = order({"zh": {"per_batch": 1000}, "en": {"per_batch": 300}, "code": {"per_batch": 140}}, block_size=1440)
    for batch in (0, 1, 10**6):
        sources = planned.places(batch * 1440, (batch + 1) * 1440).sources.tolist()
        assert [sources.count(source) for source in range(3)] == [1000, 300, 140]


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({}, "names no source"),
        (None, "names no source"),
        ({"zh": {"weigth": 3}}, "mix.sources.zh={'weigth': 3} was not understood"),
        ({"zh": {"weight": 3, "epochs": 1}}, "exactly one of weight, epochs, tokens, per_batch"),
        ({"zh": "much"}, "weight must be a positive number, found 'much'"),
        ({"zh": True}, "weight must be a positive number, found True"),
        ({"zh": {"epochs": 0}}, "epochs must be a positive number, found 0; null leaves a source out"),
        ({"zh": {"tokens": float("inf")}}, "tokens must be a positive number"),
        ({"zh": 1, "en": {"epochs": 2}}, "the mix gives zh a weight and en epochs or tokens"),
        ({"zh": {"per_batch": 8}, "en": {"weight": 8}}, "the mix gives en a weight and zh rows per batch"),
        ({"zh": {"per_batch": 8}, "en": {"per_batch": 7}}, r"8 zh \+ 7 en = 15 rows and .* is 16: make the two equal"),
        ({"zh": {"per_batch": 7.5}}, "whole number of rows, found 7.5"),
    ],
)
def test_a_mistake_is_named(sources: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Mix.parse(sources, "repeat", 16)


def test_what_happens_at_the_end_is_one_of_three() -> None:
    with pytest.raises(UserError, match="'halt' is not one of repeat, stop, reweight"):
        Mix.parse({"zh": 1}, "halt", 16)


def test_the_log_says_what_is_read_when_and_what_is_left_out() -> None:
    said = describe(order({"zh": 5, "en": 2, "code": 1}, "reweight"), ["zh", "en", "code"])
    assert said == [
        "from step 1 on, rows in a global batch of 16: zh 10.00, en 4.00, code 2.00",
        "from step 51 on, rows in a global batch of 16: zh 11.43, en 4.57",
        "the mix ends after 93 steps, having read zh 1×, en 1×, code 1×; rows left over, too few for a global "
        "batch: 12",
    ]
    assert describe(order({"zh": 5, "en": 2}), ["zh", "en"]) == [
        "from step 1 on, rows in a global batch of 16: zh 11.43, en 4.57"
    ]
