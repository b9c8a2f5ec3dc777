"""Rows that join and leave a running batch get the tokens they get alone."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.generation.engine import Decoding, Request
from src.generation.engines.batch import Batch
from src.generation.engines.row import Row
from src.generation.engines.sampling import Chooser
from src.generation.engines.token_bytes import TokenBytes
from src.generation.prompts import PromptEncoder
from src.generation.text_stream import TextStream
from src.models.load import load_for_generation

PROMPTS = ["one", "two words here", "a prompt of some more words than the others have", "春眠不觉晓，处处闻啼鸟。", "x"]


@pytest.fixture(scope="module")
def tiny(llama_tiny):
    torch.manual_seed(0)
    model, tokenizer = load_for_generation(llama_tiny)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # logits far apart, so that no rounding decides
    return model, tokenizer


def make_row(tiny, number: int, count: int, **decoding) -> Row:
    _, tokenizer = tiny
    how = Decoding(max_new_tokens=count, ignore_eos=True, **decoding)
    request = Request(str(number), prompt=PROMPTS[number % len(PROMPTS)], decoding=how)
    prompt = PromptEncoder(tokenizer, None, 512).encode(request)
    return Row(request, prompt, TextStream(tokenizer), Chooser(how, prompt.ids))


def make_batch(tiny) -> Batch:
    model, tokenizer = tiny
    return Batch(model, 0, TokenBytes(tokenizer))


def alone(tiny, number: int, count: int, **decoding) -> list[int]:
    batch, row = make_batch(tiny), make_row(tiny, number, count, **decoding)
    batch.join([row])
    while batch.rows:
        batch.step()
    return row.answer


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_rows_that_come_and_go_at_random_get_what_they_get_alone(tiny, seed):
    dice = random.Random(seed)
    kinds = [{}, {"repetition_penalty": 1.4}, {"do_sample": True, "temperature": 1.2, "seed": 5, "top_k": 30}]
    plans = [(number, dice.randint(1, 8), dice.choice(kinds)) for number in range(6)]
    rows = [make_row(tiny, number, count, **kind) for number, count, kind in plans]
    waiting, abandoned, batch = list(rows), set(), make_batch(tiny)
    while waiting or batch.rows:
        if waiting and (dice.random() < 0.5 or not batch.rows):
            joining = [waiting.pop() for _ in range(dice.randint(1, len(waiting)))]
            batch.join(joining)
        elif batch.rows and dice.random() < 0.1:
            gone = dice.choice(batch.rows)
            abandoned.add(gone)
            batch.leave([gone])
        else:
            batch.step()
    for row, (number, count, kind) in zip(rows, plans, strict=True):
        expected = alone(tiny, number, count, **kind)
        assert row.answer == (expected[: len(row.answer)] if row in abandoned else expected)


def test_padding_that_nobody_needs_is_cut_off(tiny):
    batch = make_batch(tiny)
    long, short = make_row(tiny, 2, 1), make_row(tiny, 0, 5)
    other = make_row(tiny, 2, 3)
    batch.join([long, short, other])  # the long one ends with its first token
    batch.step()
    batch.step()
    assert [row.request.id for row in batch.rows] == ["0"]
    assert batch._mask.shape == (1, short.length - 1) == (1, batch._cache.get_seq_length())


def test_an_empty_batch_holds_no_cache(tiny):
    batch = make_batch(tiny)
    batch.join([make_row(tiny, 1, 1)])
    assert not batch.rows and batch._cache is None
