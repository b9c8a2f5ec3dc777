"""Every rule fires on what it is for, and on no ordinary text."""

from itertools import product

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.cleaning.measures import RULES
from src.corpus.cleaning.prose import SETTINGS, ProseQuality
from src.corpus.steps import Drop
from src.errors import UserError

NORMAL = {
    "zh": "今天天气很好，我们一起去公园散步。路边的花都开了，孩子们在草地上放风筝。\n"
    "傍晚的时候，爷爷讲起了他年轻时的故事：那一年他十八岁，第一次离开家乡到北京读书。大家听得入了神。",
    "en": "The weather was fine and we went to the park that morning. Children were flying kites on the grass.\n\n"
    "In the evening my grandfather told us a story of his youth: he was eighteen and left home for the first time, "
    "with a suitcase and a letter. Nobody said anything until he had come to the end of it.",
}
VERSE = "靜夜思\n床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。"
MANUAL = (
    "NAME\nls - list directory contents\nSYNOPSIS\nls [OPTION]... [FILE]...\nDESCRIPTION\nList information about the "
    "FILEs (the current directory by default).\n-a, --all\ndo not ignore entries starting with .\n-l\nuse a long format"
)

# language, setting, threshold, a text that fails
EXAMPLES = [
    ("zh", "min_characters", 10, "很好。"),
    ("zh", "max_characters", 5, "今天天气很好"),
    ("en", "min_words", 5, "too few"),
    ("en", "max_words", 5, "one two three four five six"),
    ("zh", "min_han_share", 0.1, "This page was never translated into 中文 by anybody."),
    ("zh", "max_punctuation_share", 0.5, "好————————！！"),
    ("zh", "max_digit_share", 0.5, "编号 1234567890"),
    ("zh", "min_sentence_marks", 2, "没有句号，只有一个。"),
    ("en", "min_mean_word_length", 3, "a b c d e f g"),
    ("en", "max_mean_word_length", 12, "pneumonoultramicroscopicsilico floccinaucinihilipilification"),
    ("en", "max_symbols_per_word", 0.1, "#one #two ## three"),
    ("en", "max_symbols_per_word", 0.1, "read… more… and ... more"),
    ("en", "max_bullet_lines", 0.5, "- one\n• two\n- three"),
    ("zh", "max_ellipsis_lines", 0.5, "然后……\n未完..."),
    ("en", "min_alphabetic_words", 0.6, "a 1 2 3 4"),
    ("en", "min_stop_words", 1, "no such words here"),
    ("en", "max_curly_brackets", 0.05, "if (a) { b(); }"),
    ("en", "max_lorem_ipsum", 0, "Lorem ipsum dolor sit amet"),
    ("en", "max_notice_lines", 0.4, "Please enable JavaScript to go on.\nWe use cookies.\nHello."),
    ("zh", "max_notice_lines", 0.4, "上一页 下一页\n返回顶部"),
    ("en", "min_punctuated_lines", 0.12, "home\nabout\ncontact"),
    ("en", "max_short_lines", 0.67, "home\nabout\ncontact"),
    ("en", "max_line_breaks_per_word", 0.5, "a\nb\nc\nd"),
    ("en", "max_duplicate_lines", 0.3, "one line\none line\none line"),
    ("en", "max_duplicate_line_characters", 0.3, "a rather long line of text\na rather long line of text\nb\nc\nd"),
    ("en", "max_duplicate_paragraphs", 0.3, "a\nb\n\na\nb\n\na\nb"),
    ("en", "max_duplicate_paragraph_characters", 0.3, "first and long\n\nfirst and long\n\nb\n\nc"),
    *(("en", f"max_top_{n}gram", 0.2, "buy this now and here " * 4) for n in (2, 3, 4)),
    *(("zh", f"max_duplicate_{n}gram", 0.1, "快来买这个很便宜的好东西吧" * 3) for n in range(5, 11)),
]


@pytest.mark.parametrize(("language", "setting", "threshold", "text"), EXAMPLES)
def test_each_rule_drops_its_example_and_keeps_a_normal_text(language, setting, threshold, text):
    step = ProseQuality(language, repetition_tokens=10, **{setting: threshold})
    drop = step.apply(text)
    assert isinstance(drop, Drop)
    assert f"{threshold:g}" in drop.why
    if setting != "max_characters" and setting != "max_words":
        assert step.apply(NORMAL[language]) is NORMAL[language]


def test_every_rule_has_an_example():
    assert {setting for _, setting, _, _ in EXAMPLES} == set(SETTINGS)


def test_a_rule_that_is_null_is_off():
    assert ProseQuality("zh", min_characters=None).apply("短") == "短"


def test_the_standard_thresholds_keep_verse_manuals_and_normal_text(standard_steps):
    zh, en = standard_steps("zh")["quality"], standard_steps("en")["quality"]
    for step, texts in ((zh, (NORMAL["zh"], VERSE, "房间很干净，下次还来住。")), (en, (NORMAL["en"], MANUAL))):
        for text in texts:
            assert step.apply(text) is text


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=80), min_size=1, max_size=5))
def test_no_text_is_an_error_and_neighbours_change_no_verdict(texts):
    limits = {rule.setting: 0.3 for rule in RULES} | {f"max_top_{n}gram": 0.1 for n in (2, 3, 4)}
    for language in ("zh", "en"):
        step = ProseQuality(language, repetition_tokens=2, max_duplicate_5gram=0.1, **limits)  # type: ignore[arg-type]
        assert step.judge(texts) == [step.judge([text])[0] for text in texts]


def test_an_empty_text_is_judged():
    assert isinstance(ProseQuality("zh", min_characters=1).apply(""), Drop)
    assert ProseQuality("zh", min_han_share=0.5).apply("") == ""


def test_a_run_over_documents_gives_the_verdicts_of_single_texts():
    texts = [text for _, _, _, text in EXAMPLES] * 3 + [NORMAL["zh"] * 400]
    step = ProseQuality("zh", min_characters=12, max_duplicate_8gram=0.3)
    expected = [text for text in texts if isinstance(ProseQuality.apply(step, text), str)]
    documents = [Document(text=text, id=str(index)) for index, text in enumerate(texts)]
    assert [document.text for document in step.run(iter(documents))] == expected
    assert step.report.documents_in == len(texts)
    assert step.report.documents_out == len(expected)
    dropped = sum(dropped.documents for dropped in step.report.dropped.values())
    assert dropped == len(texts) - len(expected)


def test_a_long_text_is_judged_by_its_beginning_and_measured_whole():
    text = "很多不同的汉字在这里" + "x" * 50
    assert ProseQuality("zh", judged_characters=10, min_han_share=0.9).apply(text) is text
    assert isinstance(ProseQuality("zh", judged_characters=10, max_characters=30).apply(text), Drop)
    assert isinstance(ProseQuality("en", judged_characters=3, min_words=3).apply("one two"), Drop)
    assert ProseQuality("en", judged_characters=3, min_words=2).apply("one two") == "one two"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"language": "fr"}, "fr"),
        ({"language": "zh", "min_letters": 3}, "min_letters"),
        ({"language": "zh", "min_characters": "ten"}, "ten"),
        ({"language": "zh", "judged_characters": 0}, "judged_characters"),
    ],
)
def test_mistakes_in_the_settings_are_named(arguments, what):
    with pytest.raises(UserError, match=what):
        ProseQuality(**arguments)


def test_verdicts_hold_for_texts_around_the_size_of_a_batch():
    step = ProseQuality("en", max_duplicate_5gram=0.2, repetition_tokens=5)
    for size, repeated in product((100, 8_000, 40_000), (False, True)):
        words = " ".join(str(number % 7 if repeated else number) for number in range(size))
        assert isinstance(step.apply(words), Drop) == repeated
