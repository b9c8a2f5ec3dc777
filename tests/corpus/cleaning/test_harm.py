"""Texts full of listed phrases are dropped; texts that speak of such things are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.harm import HarmfulWords, read_phrases
from src.corpus.steps import Drop
from src.errors import UserError


@pytest.fixture(scope="module")
def phrase_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "harmful.txt"
    path.write_text("# gambling\n时时彩\n\nonline casino\n时时彩\n", encoding="utf-8")
    return path


def test_comments_blank_lines_and_repetitions_are_no_phrases(phrase_file):
    assert read_phrases(phrase_file) == ["时时彩", "online casino"]


def test_a_text_with_too_many_phrases_is_dropped_and_they_are_named(phrase_file):
    step = HarmfulWords(phrase_file, max_matches=2)
    assert step.apply("玩时时彩，时时彩，时时彩，Online Casino！") == Drop(
        "harmful_words", "时时彩 (3), online casino (1): 4 matches, at most 2"
    )


def test_a_text_that_speaks_of_one_is_kept_and_counted(phrase_file):
    step = HarmfulWords(phrase_file, max_matches=2, max_share=0.1)
    text = "报纸说，时时彩这类赌博害人不浅，警方已经抓获了多名嫌疑人，请大家远离赌博，注意财产的安全。"
    assert step.apply(text) is text
    assert step.report.counters == {"matches": 1}


def test_a_short_text_that_says_nothing_else_is_dropped(phrase_file):
    drop = HarmfulWords(phrase_file, max_share=0.1).apply("时时彩 加我")
    assert isinstance(drop, Drop)
    assert "0.600 of the text" in drop.why


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "真人百家乐，北京赛车，时时彩，六合彩，注册送彩金，送彩金"),
        ("en", "Best online casino bonus: free spins, no deposit bonus, online slots, real money casino."),
    ],
)
def test_the_lists_that_come_along_drop_spam(language, text, standard_steps):
    assert isinstance(standard_steps(language)["harm"].apply(text), Drop)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "今天天气很好，我们去公园。"),
        ("en", "The casino of Monte Carlo was built in 1863; Essex lies east of London."),
    ],
)
def test_the_lists_that_come_along_keep_normal_text(language, text, standard_steps):
    assert standard_steps(language)["harm"].apply(text) is text


@given(text=st.text(st.characters(codec=None, exclude_categories=()), max_size=100))
def test_no_text_is_an_error(phrase_file, text):
    assert HarmfulWords(phrase_file, max_matches=0).apply(text) is text or "时时彩" in text or "casino" in text.lower()


def test_it_depends_on_the_phrases_and_not_on_where_they_lie(phrase_file, tmp_path):
    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_text("时时彩\n# another comment\nonline casino", encoding="utf-8")
    other.write_text("时时彩\nonline casinos\n", encoding="utf-8")
    wanted = HarmfulWords(phrase_file).depends_on()
    assert list(wanted) == ["path"] and len(wanted["path"]) == 64
    assert HarmfulWords(copy).depends_on() == wanted != HarmfulWords(other).depends_on()


def test_a_missing_list_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match=r"no list of harmful words.*path=\.\.\."):
        HarmfulWords(tmp_path / "none.txt")


def test_a_phrase_of_one_character_is_refused_with_its_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("两个\n性\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"list\.txt:2: '性'"):
        HarmfulWords(path)


def test_a_list_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("赌博".encode("gbk"))
    with pytest.raises(UserError, match="not UTF-8"):
        HarmfulWords(path)
