"""Penalties, bias and truncation of one row's logits."""

import pytest
import torch

from src.generation.engine import Decoding
from src.generation.engines.sampling import Chooser, distribution

LOGITS = torch.tensor([2.0, 1.0, -1.0, 0.5, 0.0])


def chosen(prompt, answer, **decoding):
    chooser = Chooser(Decoding(**decoding), prompt)
    for token in answer:
        chooser.take(token)
    return chooser.choose(LOGITS)


def test_without_settings_the_likeliest_token_is_taken():
    assert chosen([], []) == 0


def test_a_repetition_penalty_counts_prompt_and_answer_and_pushes_negative_logits_down():
    assert chosen([0], [], repetition_penalty=2.5) == 1
    assert chosen([0], [1], repetition_penalty=5.0) == 3
    chooser = Chooser(Decoding(repetition_penalty=2.0), [2])
    assert chooser.penalised(LOGITS.clone(), torch.tensor([0, 2])).tolist() == [1.0, 1.0, -2.0, 0.5, 0.0]


def test_presence_and_frequency_penalties_count_the_answer_only():
    assert chosen([0, 0, 0], [], presence_penalty=2.0) == 0
    assert chosen([], [0], presence_penalty=1.5) == 1
    assert chosen([], [0], frequency_penalty=0.6) == 0
    assert chosen([], [0, 0], frequency_penalty=0.6) == 1


def test_a_bias_of_minus_100_bans_a_token():
    assert chosen([], [], logit_bias={0: -100.0}) == 1


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"min_p": 0.3}, {0, 1}),
        ({"temperature": 100.0, "top_p": 0.99}, {0, 1, 2, 3, 4}),
        ({"top_k": 3, "min_p": 0.3}, {0, 1}),
    ],
)
def test_truncation_keeps_these_tokens(how, kept):
    probabilities = distribution(LOGITS, Decoding(do_sample=True, **how))
    assert set(probabilities.nonzero()[:, 0].tolist()) == kept


def test_a_choice_leaves_the_logits_as_they_were():
    before = LOGITS.clone()
    chosen([0, 1], [2], repetition_penalty=1.5, logit_bias={1: 2.0}, do_sample=True, top_k=2)
    assert torch.equal(before, LOGITS)
