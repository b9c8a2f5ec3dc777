"""What a reader sees of wikitext, and where its links are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.instructions.kg2instruction.linked_text import LinkedText
from src.instructions.kg2instruction.vocabulary import Language
from src.instructions.kg2instruction.wikipedia import Site
from src.instructions.kg2instruction.wikitext import chosen_variant, plain_text

SITE = Site("enwiki", frozenset({"file", "category", "wikipedia", "文件", "分类"}))


def read(wikitext: str, language: Language = "en") -> tuple[str, list[tuple[str, str | None]]]:
    found = plain_text(wikitext, language, SITE)
    return found.text, [(found.text[mark.start : mark.end], mark.target) for mark in found.marks]


@pytest.mark.parametrize(
    ("wikitext", "text", "links"),
    [
        ("A [[cat]] sat.", "A cat sat.", [("cat", "Cat")]),
        ("Two [[bus]]es.", "Two buses.", [("buses", "Bus")]),
        ("In [[Paris (mythology)|]].", "In Paris.", [("Paris", "Paris (mythology)")]),
        ("The [[Union#History|Union]].", "The Union.", [("Union", "Union")]),
        ("[[File:A.jpg|thumb|[[Cat]]]]Text", "Text", []),
        ("[[fr:Chat]][[Category:Cats]]Text", "Text", []),
        (
            "A [[wikt:dog|dog]], [[Wikipedia:Cats|cats]], [[CSI: Miami]].",
            "A dog, cats, CSI: Miami.",
            [("CSI: Miami",) * 2],
        ),
        ("See [[:Category:Cats|cats]].", "See cats.", []),
        ("[[A|''b'' '''c''']]", "b c", [("b c", "A"), ("c", None)]),
        ("x<ref>[[no]]</ref>y<!-- [[no]] -->", "xy", []),
        ("x<ref name='a/b'/>y<ref name=c>{{no|''[[</ref>z\n<!-- no -->\nz <ref>open", "xyz z <ref>open", []),
        ("{|\n| [[no]]\n|}\nyes", "\nyes", []),
        ("a ({{IPA|x}}; 1900) b ({{x}}) c", "a (1900) b c", []),
        ("[http://a.b words] and http://c.d", "words and ", []),
        ("it is {{convert|5|to|6|km|mi}} far", "it is 5 to 6 km far", []),
        ("{{lang|de|[[Bär]]}} {{nowrap|so far}}", "Bär so far", [("Bär", "Bär")]),
        ("born {{birth date|1852|3|12|df=y}}", "born March 12, 1852", []),
        ("a&nbsp;b &amp; c", "a b & c", []),
        ("one line\nand [[bus]]es\n\nnext", "one line and buses\n\nnext", [("buses", "Bus")]),
        ("a list:\n* one\n* two\nafter", "a list:\n* one\n* two\nafter", []),
        ("it said<blockquote>no</blockquote>and so on", "it said\n\nno\n\nand so on", []),
        ("{{langx|de|[[Bär]]}}, {{ill|Ada|de}}{{'s}} {{HMS|Hood|51}}", "Bär, Ada's HMS Hood", [("Bär", "Bär")]),
        ("{{as of|2014|6|lc=y}}; {{convert|6|ft|2|in|m}}", "as of June 2014; 6 ft 2 in", []),
    ],
)
def test_english_wikitext_reads(wikitext: str, text: str, links: list[tuple[str, str | None]]) -> None:
    assert read(wikitext) == (text, links)


@pytest.mark.parametrize(
    ("wikitext", "text", "links"),
    [
        ("[[檔案:a.jpg|thumb|說明]]甲[[分類:乙]]", "甲", []),
        ("[[北京]]s在[[文件:a.jpg]]", "北京s在", [("北京", "北京")]),
        ("{{link-en|甲|Jia}}和{{bd|1881年|9月25日|1936年}}", "甲和（1881年9月25日—1936年）", []),
        ("-{zh-hans:内存;zh-hant:記憶體}-大", "内存大", []),
        ("甲（{{lang|en|}}，乙）", "甲（乙）", []),
        ("第一行\n第二行 a\nb", "第一行第二行 a b", []),
    ],
)
def test_chinese_wikitext_reads(wikitext: str, text: str, links: list[tuple[str, str | None]]) -> None:
    assert read(wikitext, "zh") == (text, links)


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("zh-tw:軟體;zh-cn:软件", "软件"),
        ("zh-tw:軟體;zh-hk:軟件", "軟體"),
        ("H|zh-cn:甲;zh-tw:乙", ""),
        ("R|沈陽", "沈陽"),
        ("時間: 三點", "時間: 三點"),
    ],
)
def test_of_variants_the_simplified_one_is_shown(markup: str, shown: str) -> None:
    assert chosen_variant(markup) == shown


def test_sections_of_references_are_left_out_and_the_next_one_is_not() -> None:
    text, _ = read("one\n== References ==\ntwo\n=== Sub ===\nthree\n== After ==\nfour")
    assert "one" in text and "four" in text and "two" not in text and "three" not in text


@given(st.text(alphabet="[]{}|'=<>/ref \nab:*#;-中文", max_size=60))
def test_marks_lie_in_the_text_whatever_the_wikitext_is(wikitext: str) -> None:
    for language in ("en", "zh"):
        found: LinkedText = plain_text(wikitext, language, SITE)  # type: ignore[arg-type]
        assert all(0 <= mark.start < mark.end <= len(found.text) for mark in found.marks)
