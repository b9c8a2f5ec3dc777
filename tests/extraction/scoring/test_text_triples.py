"""Parsing of triples and their scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.extraction.scoring.text_triples import Triple, exact_match, parse_triples, score, score_by

BIRTH = Triple("马力", "出生地", "青州市")


@pytest.mark.parametrize(
    "text",
    [
        "(马力,出生地,青州市)",
        "（马力，出生地，青州市）",
        "输入中包含的关系三元组是：\n1. ( 马力 , 出生地 , 青州市 )。",
        "(马力,出生地,青州市)(马力,出生地,青州市)",
        "(马力,任职于,NAN)\n(马力,出生地,青州市)\n(马力,任职",
        "(《马力》,出生地,“青州市”)",
    ],
)
def test_what_models_write_around_a_triple_is_passed_over(text):
    assert parse_triples(text) == {BIRTH}


@pytest.mark.parametrize("text", ["", "NAN", "No triples found.", "(a,b)", "((((", "(,,)", "a,b,c"])
def test_text_without_triples_gives_none(text):
    assert parse_triples(text) == set()


def test_a_comma_in_an_entity_is_kept_with_it():
    assert parse_triples("(Reed, Inc.,founder,Alan Reed)") == {Triple("Reed,Inc.", "founder", "Alan Reed")}
    text, relations = "(Tar,located in,Bel,Mor)", {"located in"}
    assert parse_triples(text, relations) == {Triple("Tar", "located in", "Bel,Mor")}


def test_brackets_in_an_entity_are_kept_with_it():
    assert parse_triples("(Paris (Texas),country,USA)") == {Triple("Paris (Texas)", "country", "USA")}


def test_scores_are_micro_averaged_over_records():
    scores = score(["(a,r,b)\n(a,r,x)", "(c,r,d)", ""], ["(a,r,b)", "(c,r,d)", "(e,r,f)\n(e,r,g)"])
    assert (scores.found, scores.expected, scores.right) == (3, 4, 2)
    assert scores.precision == pytest.approx(2 / 3) and scores.recall == pytest.approx(1 / 2)
    assert scores.f1 == pytest.approx(4 / 7) and scores.exact_match == pytest.approx(1 / 3)


def test_letter_case_and_direction_count():
    assert score(["(A,r,b)"], ["(a,r,b)"]).right == 0
    assert score(["(b,r,a)"], ["(a,r,b)"]).right == 0


def test_each_language_has_scores_of_its_own():
    by_language = score_by(["zh", "en"], ["(a,r,b)", "none"], ["(a,r,b)", "(c,r,d)"])
    assert by_language["zh"].f1 == 1 and by_language["en"].f1 == 0 and by_language["all"].recall == 0.5


def test_numbers_of_answers_and_references_must_agree():
    with pytest.raises(UserError):
        score(["a"], [])
    with pytest.raises(UserError):
        exact_match(["a"], [])


@given(st.sets(st.builds(Triple, *[st.text("ab马力 9", min_size=1).map(str.strip).filter(bool)] * 3), max_size=4))
def test_triples_written_down_are_read_back(triples):
    plain = {Triple(*(" ".join(field.split()) for field in (t.head, t.relation, t.tail))) for t in triples}
    assert parse_triples("\n".join(f"({t.head},{t.relation},{t.tail})" for t in plain)) == plain


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail(text):
    assert isinstance(parse_triples(text), set)
