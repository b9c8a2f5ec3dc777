"""CCKS-2023's score: F1 of triples and ROUGE-2 of texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.extraction.scoring.ccks import CCKSAnswer, ccks_score, rouge_2, split_tokens
from src.extraction.scoring.scoring import Counts


@pytest.mark.parametrize(
    ("text", "reference"), [("马", "马"), ("", ""), ("(马力,出生地,青州市)", "(马力,出生地,青州市)")]
)
def test_equal_texts_have_rouge_2_of_1_however_short(text, reference):
    assert rouge_2(text, reference) == 1


def test_rouge_2_is_counted_by_hand():
    assert rouge_2("甲乙丙丁", "甲乙丙戊") == pytest.approx(2 / 3)  # 甲乙, 乙丙 of three pairs each
    assert rouge_2("甲乙甲乙", "甲乙") == pytest.approx(2 / 3)  # 甲乙, 乙甲 beside 甲乙: each pair once
    assert rouge_2("The cat sat!", "a cat sat") == 1
    assert rouge_2("甲乙", "") == rouge_2("甲乙", "丙丁") == rouge_2("", "甲") == 0
    assert rouge_2("在1999年", "从1999年") < 1


def test_numbers_and_words_stay_whole_in_chinese():
    assert split_tokens("于2017年, NBA球员") == ["于", "2017", "年", ",", "NBA", "球", "员"]


def test_tokens_can_be_given():
    assert rouge_2("甲乙丙", "甲乙丁", tokens=lambda text: text) == 0.5


@settings(deadline=None)
@given(st.text("甲乙a ,(", max_size=12), st.text("甲乙a ,(", max_size=12))
def test_rouge_2_is_bounded_and_symmetric(one, other):
    assert 0 <= rouge_2(one, other) == rouge_2(other, one) <= 1


def test_the_score_adds_both_by_weights():
    expected = [CCKSAnswer("(马力,出生地,青州市)(马力,职业,教师)"), CCKSAnswer("无", [])]
    predicted = [CCKSAnswer("(马力,出生地,青州市)"), CCKSAnswer("无", [("甲", "乙", "丙")])]
    score = ccks_score(predicted, expected)
    assert score.triples == Counts(1, 2, 2) and score.f1 == 50
    rouge = 100 * (rouge_2(predicted[0].output, expected[0].output) + 1) / 2
    assert score.rouge_2 == pytest.approx(rouge) and 50 < rouge < 100
    assert score.score == pytest.approx((50 + rouge) / 2)
    assert ccks_score(predicted, expected, (1, 0)).score == 50
    assert ccks_score(predicted, expected, (1, 3)).score == pytest.approx((50 + 3 * rouge) / 4)


def test_the_reference_itself_scores_100():
    answers = [CCKSAnswer("(马力,出生地,青州市)"), CCKSAnswer("(Reed, Inc.,founder,Alan Reed)")]
    assert ccks_score(answers, answers).score == 100


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(UserError, match="give as many"):
        ccks_score([CCKSAnswer("")], [])
    with pytest.raises(UserError, match="weights"):
        ccks_score([], [], (0, 0))
